"""What every ``TagReader`` must do: with any registry, and the fake.

Subclass ``TagReaderSuite`` and give it an ``origin`` fixture: a reader, and a way to publish images for it.
"""

from __future__ import annotations

from typing import Protocol

import pytest

from imagecache.api.tags import TagQuestion
from imagecache.controller.dependencies import TagReader
from imagecache.errors import ImageNotFound
from testkit.images_oci import AMD64, ARM64, MemoryImage, memory_image, memory_index


class TagOrigin(Protocol):
    @property
    def reader(self) -> TagReader:
        """The reader under test."""

    def publish(self, name: str, image: MemoryImage) -> str:
        """Publish an image as ``repository:tag``, in place of what that names; returns its reference."""


class TagReaderSuite:
    @pytest.fixture
    def origin(self) -> TagOrigin:
        raise NotImplementedError

    async def test_a_tag_names_what_was_pushed_last(self, origin: TagOrigin) -> None:
        first, second = memory_image([b"one"]), memory_image([b"two"])
        question = TagQuestion(origin.publish("team/moving:1", first))
        assert await origin.reader.read([question], []) == {question: first.descriptor.digest}

        origin.publish("team/moving:1", second)
        assert await origin.reader.read([question], []) == {question: second.descriptor.digest}

    async def test_an_index_is_named_itself(self, origin: TagOrigin) -> None:
        index = memory_index([memory_image([b"x"], platform=AMD64), memory_image([b"y"], platform=ARM64)])
        question = TagQuestion(origin.publish("team/many:1", index))

        assert await origin.reader.read([question], []) == {question: index.descriptor.digest}

    async def test_each_question_has_an_answer_of_its_own(self, origin: TagOrigin) -> None:
        images = {f"team/app{number}:1": memory_image([str(number).encode()]) for number in range(5)}
        known = {TagQuestion(origin.publish(name, image)): image for name, image in images.items()}
        host = next(iter(known)).image.partition("/")[0]
        absent = TagQuestion(f"{host}/team/app1:absent")

        found = await origin.reader.read([*known, absent], [])

        assert {each: found[each] for each in known} == {each: image.descriptor.digest for each, image in known.items()}
        problem = found[absent]
        assert isinstance(problem, ImageNotFound)
        assert problem.image == absent.image

    async def test_nothing_is_asked(self, origin: TagOrigin) -> None:
        assert await origin.reader.read([], []) == {}
