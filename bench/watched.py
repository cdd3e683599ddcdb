"""Objects of the API server as they change, and the moment at which each change arrived here.

One watch for a whole measurement, so that a figure holds no polling, no program's start and no connection's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from imagecache.kube import objects
from imagecache.kube.api import ChangeKind, Kube, Object
from imagecache.kube.informer import Informer
from imagecache.kube.resources import Resource

Holds = Callable[[Object], bool]
_LONGEST = 300.0
"""Seconds that anything here may take."""


@dataclass
class Watched:
    """Every object of a resource as it is now. Made by ``watched``."""

    items: dict[str, Object] = field(default_factory=dict)
    _expected: list[tuple[str, Holds, asyncio.Future[float]]] = field(default_factory=list)

    def expect(self, name: str, holds: Holds) -> Awaitable[float]:
        """When (``time.perf_counter``) the first change of the object arrives after which it holds.

        Call it before the cause, await it behind. Raises TimeoutError, with what the object was.
        """
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._expected.append((name, holds, future))
        return self._within(name, future)

    async def _within(self, name: str, future: asyncio.Future[float]) -> float:
        try:
            return await asyncio.wait_for(future, _LONGEST)
        except TimeoutError:
            status = self.items.get(name, {}).get("status", "no such object, or one without a status")
            raise TimeoutError(f"{name} after {_LONGEST:.0f} s: {status}") from None

    def gone(self, name: str) -> Awaitable[float]:
        """When the object goes; as ``expect``."""
        return self.expect(name, lambda item: not item)

    def _arrived(self, name: str, item: Object) -> None:
        now = time.perf_counter()
        for entry in [entry for entry in self._expected if entry[0] == name]:
            _, holds, future = entry
            if holds(item):
                self._expected.remove(entry)
                if not future.done():
                    future.set_result(now)

    def _ended(self, following: asyncio.Task[None]) -> None:
        """Nothing arrives any more: whoever waits learns why, instead of a timeout."""
        error = None if following.cancelled() else following.exception()
        for _, _, future in self._expected:
            if error is not None and not future.done():
                future.set_exception(error)

    async def _follow(self, follower: Informer) -> None:
        async for change in follower.changes():
            name = objects.name(change.object)
            if change.kind is ChangeKind.DELETED:
                self.items.pop(name, None)
            else:
                self.items[name] = change.object
            self._arrived(name, self.items.get(name, {}))


@contextlib.asynccontextmanager
async def watched(kube: Kube, resource: Resource, *, namespace: str = "") -> AsyncIterator[Watched]:
    """Complete on entry."""
    found, follower = Watched(), Informer(kube, resource, namespace=namespace)
    following = asyncio.create_task(found._follow(follower))  # noqa: SLF001 - the other half of the class
    following.add_done_callback(found._ended)  # noqa: SLF001 - the same
    try:
        await follower.synced.wait()
        yield found
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
