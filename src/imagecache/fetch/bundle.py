"""A whole bundle from the remote store into the node's own: described first, then fetched.

``describe`` fetches the small documents, so that a budget can decide; ``fetch`` fetches what is missing, each layer
once however many caches want it, and puts the bundle into the store last, when everything it names exists. It must not
decide whether a bundle fits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from imagecache.concurrency import cancel_all, run_all
from imagecache.digest import Digest
from imagecache.fetch import trust
from imagecache.fetch.lease import leased
from imagecache.fetch.prefetch import BuildPrefetcher
from imagecache.fetch.remote_store import RemoteStore
from imagecache.fetch.running import RunningTransfer
from imagecache.fetch.transfer import Advanced, LayerFetcher
from imagecache.oci.descriptor import Platform
from imagecache.oci.platform import no_match
from imagecache.store.bundle_document import Bundle, LayerRecord
from imagecache.store.layer_name import LayerName
from imagecache.store.store import Store

_DOCUMENTS = 8
"""Requests at once."""


@dataclass(frozen=True, slots=True)
class Described:
    """A bundle that may be fetched: its documents are here, and agree with each other."""

    document: Bundle
    bodies: Mapping[Digest, bytes]

    @property
    def layers(self) -> dict[LayerName, LayerRecord]:
        """Each layer image once."""
        return {layer.name: layer for image in self.document.images for layer in image.layers}

    @property
    def size(self) -> int:
        """Bytes of its layer images."""
        return sum(layer.size for layer in self.layers.values())


def own_part(document: Bundle, platform: Platform) -> Bundle:
    """What a node of this platform needs of a bundle. Raises NoMatchingPlatform when that is nothing."""
    own = document.on(platform)
    if not own.images:
        raise no_match(platform, (image.platform for image in document.images))
    return own


async def describe(remote: RemoteStore, bundle_id: str, digests: Mapping[str, Digest], platform: Platform) -> Described:
    """Fetch and check the documents of what a bundle has for a platform.

    ``digests`` are those that the ImageCache has, by reference.

    Raises NotFound, NoMatchingPlatform, StoreUnreachable, StoreRefused, StoreCorrupt, StoreError, ContentError.
    """
    document = own_part(await remote.bundle(bundle_id), platform)  # first: the rest is for other nodes
    limit = asyncio.Semaphore(_DOCUMENTS)

    async def body(digest: Digest) -> bytes:
        async with limit:
            return await remote.document(digest)

    wanted = sorted(document.document_digests())
    bodies = dict(zip(wanted, await run_all(*map(body, wanted)), strict=True))
    await asyncio.to_thread(trust.check, document, bodies, digests)
    return Described(document, bodies)


class BundleFetcher:
    def __init__(
        self, store: Store, remote: RemoteStore, layers: LayerFetcher, builds: BuildPrefetcher, platform: Platform
    ) -> None:
        """``platform`` of this node."""
        self._store = store
        self._remote = remote
        self._layers = layers
        self.builds = builds
        self._platform = platform
        self._running: dict[LayerName, RunningTransfer] = {}

    async def describe(self, bundle_id: str, digests: Mapping[str, Digest]) -> Described:
        """As the function of this name."""
        return await describe(self._remote, bundle_id, digests, self._platform)

    async def fetch(self, described: Described, progress: Callable[[int], None]) -> None:
        """Have the bundle in the store; ``progress`` gets the bytes of its layer images that are on this node.

        Raises as ``LayerFetcher.fetch``, AlreadyExists. When cancelled, what has arrived is kept for the next time.
        """
        layers = described.layers
        done = dict.fromkeys(layers, 0)

        def listener(name: LayerName) -> Advanced:
            def advanced(size: int) -> None:
                done[name] = size
                progress(sum(done.values()))

            return advanced

        digests = {*described.bodies, *(layer.digest for layer in layers.values())}
        async with leased(self._store, layers, digests):
            # The largest first: begun last, it would still run when all others have ended.
            largest_first = sorted(layers.values(), key=lambda layer: -layer.size)
            await run_all(*(self._shared(layer, listener(layer.name)) for layer in largest_first))
            await asyncio.to_thread(self._commit, described)

    def _commit(self, described: Described) -> None:
        # The bundle last: one that the index names is complete, also after a crash in between.
        for digest, body in described.bodies.items():
            self._store.blobs.put_verified(body, digest)
        self._store.bundles.put(described.document)

    async def _shared(self, layer: LayerRecord, listener: Advanced) -> None:
        """Have the layer, by a running fetch or a new one. It is cancelled with the last that waits for it."""
        await self.builds.join(layer.name, listener)
        running = self._running.get(layer.name) or self._start(layer)
        try:
            with running.listening(listener):
                await asyncio.shield(running.task)
        finally:
            if not running.listeners and not running.task.done():
                self._forget(
                    layer.name, running
                )  # before it has ended: a new waiter must not join one that is cancelled
                await cancel_all([running.task])

    def _start(self, layer: LayerRecord) -> RunningTransfer:
        running = RunningTransfer()
        running.task = asyncio.create_task(self._layers.fetch(layer, running.advanced))
        self._running[layer.name] = running
        running.task.add_done_callback(lambda _task: self._forget(layer.name, running))
        return running

    def _forget(self, name: LayerName, running: RunningTransfer) -> None:
        if self._running.get(name) is running:
            del self._running[name]
