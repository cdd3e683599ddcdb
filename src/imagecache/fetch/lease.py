"""The lease that keeps what is being fetched from collection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

from imagecache.digest import Digest
from imagecache.store.layer_name import LayerName
from imagecache.store.store import Store


@contextlib.asynccontextmanager
async def leased(store: Store, layers: Iterable[LayerName], digests: Iterable[Digest] = ()) -> AsyncIterator[None]:
    """No collection removes what is fetched or found within the block."""
    # In a thread, since it may wait for a running collection; a thread cannot be cancelled, so its lease is released.
    taking = asyncio.ensure_future(asyncio.to_thread(store.leases.build_lease, sorted(layers), sorted(digests)))
    try:
        lease = await asyncio.shield(taking)
    except asyncio.CancelledError:
        with await taking:
            raise
    with lease:
        yield
