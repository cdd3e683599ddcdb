"""What transfers of layers have in common: one on its way that many wait for, and leases around it.

It must not know where layers come from.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
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
