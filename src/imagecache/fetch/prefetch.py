"""Prefetches what running builds make, so that a node is ready a moment after the cache is, whatever its size.

Nothing is promised to a build: it gets the bytes of the disk that no bundle needs, its layers are kept only as long as
it is prefetched, and ``bundle`` fetches whatever is missing in the end. It must not decide which builds are worth it.
"""

from __future__ import annotations

import asyncio
from collections import deque

from imagecache.backoff import Backoff, Retries
from imagecache.concurrency import run_all
from imagecache.errors import BlobNotFound, ContentError, StoreCorrupt
from imagecache.fetch.allowance import Allowance
from imagecache.fetch.lease import leased
from imagecache.fetch.remote_store import RemoteStore
from imagecache.fetch.running import RunningTransfer
from imagecache.fetch.transfer import Advanced, FetchSettings, LayerFetcher
from imagecache.store.layer_name import LayerName
from imagecache.store.store import Store
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
PREFETCH = FetchSettings(ranges=2, threads=4)
"""One range arrives while the one before is worked on: a build is slower than that."""


class BuildPrefetcher:
    def __init__(
        self,
        store: Store,
        remote: RemoteStore,
        layers: LayerFetcher,
        architecture: str,
        backoff: Backoff = Backoff(0.2, 5.0),
    ) -> None:
        """``layers`` is for partial layers only: they occupy its ``limit`` as long as their builds take.

        ``architecture`` is this node's.

        ``backoff`` is for a build, or a layer, that has not begun: thousands of nodes may wait for one in a queue.
        """
        self._store = store
        self._remote = remote
        self._layers = layers
        self._architecture = architecture
        self._backoff = backoff
        self._running: dict[LayerName, RunningTransfer] = {}
        self._prefetched: dict[str, tuple[LayerName, ...]] = {}
        """By bundle id."""

    async def join(self, name: LayerName, listener: Advanced) -> None:
        """Wait for a layer image that has begun to arrive, until it is on this node or has failed."""
        running = self._running.get(name)
        if running is not None and running.done:
            with running.listening(listener):
                await asyncio.wait([running.task])

    @property
    def partial(self) -> dict[LayerName, int]:
        """Bytes of the partial layers that are arriving now."""
        return {name: running.done for name, running in self._running.items()}

    @property
    def kept(self) -> frozenset[LayerName]:
        """Layer images that are kept for bundles which are not on this node yet."""
        return frozenset(name for names in self._prefetched.values() for name in names)

    async def prefetch(self, bundle_id: str, allowance: Allowance) -> None:
        """Fetch what a build of the bundle makes while it makes it, and keep it until this is cancelled.

        Raises NoSpace when that is more than ``allowance`` has, StoreUnreachable, StoreRefused, StoreError.
        """
        names = await self._names(bundle_id)
        async with leased(self._store, names):
            self._prefetched[bundle_id] = names
            try:
                waiting = deque(names)
                await run_all(*(self._prefetch_some(waiting, allowance) for _ in range(self._layers.settings.layers)))
                await asyncio.Event().wait()  # the lease keeps the layers until the bundle needs them
            finally:
                del self._prefetched[bundle_id]

    async def _names(self, bundle_id: str) -> tuple[LayerName, ...]:
        """What the build will make, as soon as it knows."""
        retries = Retries(self._backoff)
        while True:
            names = await self._remote.building(bundle_id, self._architecture)
            if names:
                return names
            await asyncio.sleep(retries.failed())

    async def _prefetch_some(self, waiting: deque[LayerName], allowance: Allowance) -> None:
        """One layer after the other; those that no build is writing now are asked for again."""
        retries, missed = Retries(self._backoff), 0
        while waiting:
            name = waiting.popleft()
            if await self._prefetch_layer(name, allowance):
                retries.succeeded()
                missed = 0
                continue
            waiting.append(name)
            missed += 1
            if missed >= len(waiting):  # a pause for all that wait, not for each
                await asyncio.sleep(retries.failed())
                missed = 0

    async def _prefetch_layer(self, name: LayerName, allowance: Allowance) -> bool:
        """False: no build is writing it."""
        async with self._layers.limit:  # first: while this waits, another build or a bundle may fetch the layer
            if name in self._running or self._store.layers.has(name):
                return True
            running = self._running[name] = RunningTransfer()
            running.task = task = asyncio.create_task(self._try(name, allowance, running.advanced))
            try:
                return await task
            finally:
                del self._running[name]

    async def _try(self, name: LayerName, allowance: Allowance, advanced: Advanced) -> bool:
        try:
            return await self._layers.prefetch(name, allowance, advanced)
        except (ContentError, StoreCorrupt, BlobNotFound) as error:
            _log.info("layer image is not prefetched", layer=str(name), problem=str(error))
            return True
