"""What objects wait for that no watch reports: each thing is looked at once for all of them, less and less often.

A Secret may not be listed or watched, so a look is a get; three hundred caches that wait for one Secret must not cost
three hundred. Interest begins and ends with the decisions about an object. It must not know what a change leads to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

from imagecache.backoff import Backoff
from imagecache.errors import ImageCacheError
from imagecache.telemetry.log import get_logger

BACKOFF = Backoff(2.0, 30.0)
"""Between two looks at the same thing: a person who has just created a Secret waits for that."""
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing as it was at the last look."""

    version: str = ""
    problem: ImageCacheError | None = None
    """Why it has no version."""

    def is_as(self, other: Seen) -> bool:
        return (self.version, str(self.problem)) == (other.version, str(other.problem))


@dataclass
class _Watched:
    seen: Seen | None
    """None: whoever waits for it has decided without a look."""
    due: float
    """Time of the event loop."""
    looks: int = 1
    """Since something changed."""
    names: set[str] = field(default_factory=set)
    """Of the objects that wait for it."""


class Watches:
    """For one event loop.

    Args:
        look: looks at one thing now. Raises ImageCacheError when nothing can be said about it at all.
        wake: called with the name of each object that waits for a thing that has changed.
    """

    def __init__(
        self, look: Callable[[str], Awaitable[Seen]], wake: Callable[[str], None], backoff: Backoff = BACKOFF
    ) -> None:
        self._look = look
        self._wake = wake
        self._backoff = backoff
        self._watched: dict[str, _Watched] = {}
        self._of: dict[str, frozenset[str]] = {}
        """What each object waits for."""
        self._added = asyncio.Event()

    @property
    def watched(self) -> frozenset[str]:
        """What any object waits for now."""
        return frozenset(self._watched)

    async def seen(self, key: str) -> Seen:
        """As of the last look, if objects wait for it, else now. Raises as ``look``."""
        known = self._watched.get(key)
        return known.seen if known is not None and known.seen is not None else await self._look(key)

    def watch(self, name: str, seen: dict[str, Seen], keys: Collection[str]) -> None:
        """From now on the object waits for these, and for nothing else. ``seen``: what it was decided by."""
        wanted = frozenset(keys)
        for key in self._of.get(name, frozenset()) - wanted:
            self._watched[key].names.discard(name)
            if not self._watched[key].names:
                del self._watched[key]
        if wanted:
            self._of[name] = wanted
        else:
            self._of.pop(name, None)
        for key in wanted:
            if key not in self._watched:
                due = asyncio.get_running_loop().time() + self._backoff.pause(1)
                self._watched[key] = _Watched(seen.get(key), due)
                self._added.set()
            self._watched[key].names.add(name)

    async def refresh(self, keys: Collection[str]) -> None:
        """Look now: someone has just seen something else."""
        for key in keys:
            if key in self._watched:
                await self._look_again(key)

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._added.clear()
            now = loop.time()
            for key in [key for key, each in self._watched.items() if each.due <= now]:
                await self._look_again(key)
            nearest = min((each.due for each in self._watched.values()), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(nearest):
                    await self._added.wait()

    async def _look_again(self, key: str) -> None:
        try:
            found = await self._look(key)
        except ImageCacheError as error:
            _log.warning("cannot look, will try again", what=key, reason=error.reason, problem=str(error))
            found = None
        watched = self._watched.get(key)
        if watched is None:  # nobody waits for it any longer
            return
        watched.looks += 1
        if found is not None and (watched.seen is None or not found.is_as(watched.seen)):
            watched.seen, watched.looks = found, 1
            for name in sorted(watched.names):
                self._wake(name)
        watched.due = asyncio.get_running_loop().time() + self._backoff.pause(watched.looks)
