"""What transfers of layers have in common: one on its way that many wait for, leases around it, and all or nothing.

It must not know where layers come from.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from imagecache.digest import Digest
from imagecache.fetch.transfer import Advanced
from imagecache.store.model import LayerName
from imagecache.store.store import Store

_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class Running(Generic[_T]):
    """A layer on its way, and who wants to know."""

    task: asyncio.Future[_T] = field(init=False)
    listeners: list[Advanced] = field(default_factory=list)
    done: int = 0

    def advanced(self, size: int) -> None:
        self.done = size
        for listener in self.listeners:
            listener(size)

    async def over(self, listener: Advanced) -> None:
        """Returns when it has ended, however that was."""
        self.listeners.append(listener)
        listener(self.done)
        try:
            await asyncio.wait([self.task])
        finally:
            self.listeners.remove(listener)


@contextlib.asynccontextmanager
async def leased(store: Store, layers: Iterable[LayerName], digests: Iterable[Digest] = ()) -> AsyncIterator[None]:
    """No collection takes what is fetched or found meanwhile; taking the lease may wait for one, so in a thread."""
    taking = asyncio.ensure_future(asyncio.to_thread(store.leases.build_lease, sorted(layers), sorted(digests)))
    try:
        lease = await asyncio.shield(taking)
    except asyncio.CancelledError:
        with await taking:
            raise
    with lease:
        yield


async def all_of(works: list[Coroutine[None, None, _T]]) -> list[_T]:
    """All results; the first failure ends the others, and is raised when they have ended."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
