"""Builds that are still running: what they make comes to this node while they make it.

So a node is ready a moment after the cache is, whatever its size. Nothing is promised to a build: it gets the bytes of
the disk that nobody else needs, its layers stay only as long as it is followed, and ``fetch`` brings whatever is not
here in the end. It must not decide which builds are worth it.
"""

from __future__ import annotations

import asyncio
from collections import deque

from imagecache.backoff import Retries
from imagecache.concurrency import run_all
from imagecache.errors import BlobNotFound, ContentError, StoreCorrupt
from imagecache.fetch.allowance import Allowance
from imagecache.fetch.partial_transfer import LayerFollower
from imagecache.fetch.shared import Running, leased
from imagecache.fetch.transfer import Advanced
from imagecache.served.remote_store import RemoteStore
from imagecache.store.model import LayerName
from imagecache.store.store import Store
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)


class BuildFollower:
    def __init__(self, store: Store, remote: RemoteStore, layers: LayerFollower) -> None:
        self._store = store
        self._remote = remote
        self._layers = layers
        self._coming: dict[LayerName, Running[bool]] = {}
        self._followed: dict[str, tuple[LayerName, ...]] = {}
        """By bundle id."""
        self._turns = asyncio.Semaphore(layers.settings.layers)

    async def join(self, name: LayerName, listener: Advanced) -> None:
        """Wait for a layer image of which some has come already, until it is here or has failed."""
        coming = self._coming.get(name)
        if coming is not None and coming.done:
            await coming.over(listener)

    @property
    def coming(self) -> dict[LayerName, int]:
        """Bytes of layer images that have come from running builds."""
        return {name: each.done for name, each in self._coming.items()}

    @property
    def followed(self) -> frozenset[LayerName]:
        """Layer images that are kept for bundles which are not here yet."""
        return frozenset(name for names in self._followed.values() for name in names)

    async def follow(self, bundle_id: str, allowance: Allowance) -> None:
        """Fetch what a build of the bundle makes, as it makes it, and keep it until this is cancelled.

        Raises NoSpace when that is more than ``allowance`` has, StoreUnreachable, StoreRefused, StoreError.
        """
        names = await self._begun(bundle_id)
        async with leased(self._store, names):
            self._followed[bundle_id] = names
            try:
                waiting = deque(names)
                await run_all(*(self._follow_some(waiting, allowance) for _ in range(self._layers.settings.layers)))
                await asyncio.Event().wait()
            finally:
                del self._followed[bundle_id]

    async def _begun(self, bundle_id: str) -> tuple[LayerName, ...]:
        """What the build will make, as soon as it knows."""
        retries = self._retries()
        while True:
            names = await self._remote.building(bundle_id)
            if names:
                return names
            await asyncio.sleep(retries.failed())

    async def _follow_some(self, waiting: deque[LayerName], allowance: Allowance) -> None:
        """One after the other; those that nobody makes yet, or any more, are looked at again and again."""
        retries, missed = self._retries(), 0
        while waiting:
            name = waiting.popleft()
            if await self._follow(name, allowance):
                retries.succeeded()
                missed = 0
                continue
            waiting.append(name)
            missed += 1
            if missed >= len(waiting):
                await asyncio.sleep(retries.failed())
                missed = 0

    async def _follow(self, name: LayerName, allowance: Allowance) -> bool:
        """False: nobody makes it."""
        async with self._turns:
            if name in self._coming or self._store.layers.has(name):
                return True
            coming = self._coming[name] = Running[bool]()
            coming.task = asyncio.ensure_future(self._quietly(name, allowance, coming))
            try:
                return await coming.task
            finally:
                del self._coming[name]

    async def _quietly(self, name: LayerName, allowance: Allowance, coming: Running[bool]) -> bool:
        try:
            return await self._layers.follow(name, allowance, coming.advanced)
        except (ContentError, StoreCorrupt, BlobNotFound) as error:
            _log.info("layer image is not followed any further", layer=str(name), problem=str(error))
            return True

    def _retries(self) -> Retries:
        return Retries(self._layers.settings.backoff)
