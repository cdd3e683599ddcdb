"""Fake of what looks up tags, with tags that a test moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from imagecache.api.pull_secrets import PullSecret
from imagecache.api.tags import TagQuestion
from imagecache.errors import ImageCacheError, ImageNotFound


@dataclass
class FakeTagReader:
    """Fake of ``controller.dependencies.TagReader``."""

    tags: dict[str, str | ImageCacheError] = field(default_factory=dict)
    """Image as written to its digest, or to why it cannot be looked up."""
    asked: list[TagQuestion] = field(default_factory=list)
    secrets: list[tuple[PullSecret, ...]] = field(default_factory=list)
    """Of each call."""
    failure: ImageCacheError | None = None
    """Raised by every call."""

    async def read(
        self, questions: Sequence[TagQuestion], secrets: Sequence[PullSecret]
    ) -> Mapping[TagQuestion, str | ImageCacheError]:
        self.asked.extend(questions)
        self.secrets.append(tuple(secrets))
        if self.failure is not None:
            raise self.failure
        return {question: self._answer(question.image) for question in questions}

    def _answer(self, image: str) -> str | ImageCacheError:
        return self.tags.get(image, ImageNotFound("the registry has no such tag", hint="check the tag", image=image))
