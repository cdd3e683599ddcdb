"""Look-ups of the tags that caches were built of, spread over an interval: whether they name something else by now.

The results go to the reconciler, which decides what of them is in a status. A look-up that fails says nothing, and is
made again when the next one is due. It must not write.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from imagecache.api import parse, phases, times
from imagecache.api.effective_spec import effective_spec
from imagecache.api.pull_secrets import PullSecret
from imagecache.api.tags import TagCheck, TagQuestion, is_due
from imagecache.clock import Clock
from imagecache.controller import pull_secrets
from imagecache.controller.dependencies import TagReader
from imagecache.errors import ImageCacheError, InvalidManifest, PullSecretUnavailable
from imagecache.kube import objects
from imagecache.kube.api import Kube, Object
from imagecache.telemetry.log import get_logger

_LOOK = 30.0
"""Seconds between two looks for what is due; each may be a process."""
BATCH = 100
"""Tags at a look at most: after a controller was away for long, all may be due at once."""
_IDLE = frozenset(phase.value for phase in phases.IDLE)
_log = get_logger(__name__)

_Tag = tuple[str, str]
"""Name of the cache; image as written."""


@dataclass
class TagChecks:
    """For one event loop."""

    kube: Kube
    reader: TagReader
    caches: Callable[[], Mapping[str, Object]]
    """Every ImageCache, by name."""
    report: Callable[[str, Mapping[str, TagCheck]], None]
    """Gets what was found out about one."""
    clock: Clock
    interval: float
    """Seconds between two look-ups of one tag."""
    batch: int = BATCH
    _tried: dict[_Tag, dt.datetime] = field(default_factory=dict)
    """When, since this controller began: the status has it later, or not at all."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(min(_LOOK, self.interval / 4))
            try:
                await self.check()
            except ImageCacheError as error:
                _log.warning("tags were not looked up", reason=error.reason, problem=str(error))
            except Exception:  # noqa: BLE001 - a supervisor: caches are built and served without it
                _log.exception("looking up tags failed for a reason that is ours")

    async def check(self) -> None:
        """Look up what is due now. Raises ImageCacheError when nothing could be."""
        now = self.clock.now()
        due = self._due(now)
        secrets = _Secrets(self.kube)
        asked: dict[TagQuestion, list[_Tag]] = {}
        problems: list[ImageCacheError] = []
        for tag, item in due[: self.batch]:
            try:
                question = _question(item, tag[1])
                await secrets.fetch(question.secrets)
            except (InvalidManifest, PullSecretUnavailable) as error:
                problems.append(error)
                self._tried[tag] = now
            else:
                asked.setdefault(question, []).append(tag)
        if asked:
            self._tried |= {tag: now for tags in asked.values() for tag in tags}  # also if that fails: not soon again
            answers = await self.reader.read(list(asked), secrets.found)
            self._tell(asked, answers, now)
            problems += [answer for answer in answers.values() if isinstance(answer, ImageCacheError)]
        if problems:
            first = problems[0]
            _log.warning("some tags were not looked up", count=len(problems), reason=first.reason, problem=str(first))

    def _tell(
        self,
        asked: Mapping[TagQuestion, list[_Tag]],
        answers: Mapping[TagQuestion, str | ImageCacheError],
        now: dt.datetime,
    ) -> None:
        found: dict[str, dict[str, TagCheck]] = {}
        for question, tags in asked.items():
            answer = answers[question]
            if isinstance(answer, str):
                for name, image in tags:
                    found.setdefault(name, {})[image] = TagCheck(answer, now)
        for name, checks in found.items():
            self.report(name, checks)

    def _due(self, now: dt.datetime) -> list[tuple[_Tag, Object]]:
        """What is to be looked up, the longest not looked up first."""
        known = list(self._tags())
        self._tried = {tag: self._tried[tag] for tag, _, _ in known if tag in self._tried}
        # a time to come is not ours: a clock was set back
        seen = [(min(now, max(last, self._tried.get(tag, last))), tag, item) for tag, item, last in known]
        due = [each for each in seen if is_due(each[1][1], each[0], now, self.interval)]
        due.sort(key=lambda each: each[:2])
        return [(tag, item) for _, tag, item in due]

    def _tags(self) -> Iterator[tuple[_Tag, Object, dt.datetime]]:
        """Every tag of a cache that serves and is not being built, with the time of its last look-up in the status."""
        for name, item in self.caches().items():
            built = _built(item)
            if built is None:
                continue
            images = objects.at(item, "status", "images")
            last = {
                objects.text(image, "image"): objects.text(image, "lastCheckedTime")
                for image in (images if isinstance(images, list) else ())
            }
            for image, text in last.items():
                if image and "@" not in image:  # a digest names the same for ever
                    yield (name, image), item, max(built, times.read(text) or built)


def _built(item: Object) -> dt.datetime | None:
    """When the images of a cache were looked up by its build; None: it has none, or they are looked up now."""
    if objects.text(item, "status", "phase") not in _IDLE or objects.text(item, "metadata", "deletionTimestamp"):
        return None
    return times.read(objects.text(objects.condition(item, "Building"), "lastTransitionTime"))


def _question(item: Object, image: str) -> TagQuestion:
    """As a build of the cache would ask. Raises InvalidManifest."""
    spec = effective_spec(parse.stored(item).cache, architectures=())
    return TagQuestion(image, spec.plain_http, spec.insecure, spec.pull_secrets)


@dataclass
class _Secrets:
    """Each that is named, fetched once."""

    kube: Kube
    _known: dict[str, PullSecret | PullSecretUnavailable] = field(default_factory=dict)

    @property
    def found(self) -> list[PullSecret]:
        return [each for each in self._known.values() if isinstance(each, PullSecret)]

    async def fetch(self, names: tuple[str, ...]) -> None:
        """Raises PullSecretUnavailable, KubernetesUnavailable."""
        for name in names:
            if name not in self._known:
                self._known[name] = await self._read(name)
            known = self._known[name]
            if isinstance(known, PullSecretUnavailable):
                raise known

    async def _read(self, name: str) -> PullSecret | PullSecretUnavailable:
        try:
            return (await pull_secrets.read(self.kube, [name])).secrets[0]
        except PullSecretUnavailable as error:
            return error
