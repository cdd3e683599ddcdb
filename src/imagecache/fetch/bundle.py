"""A whole bundle from the remote store into the node's own: described first, then fetched.

``describe`` fetches the small documents, so that a budget can decide; ``fetch`` fetches what is missing, each layer
once however many caches want it, and puts the bundle into the store last, when everything it names exists. It must not
decide whether a bundle fits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from imagecache.builder.position import is_right_everywhere
from imagecache.concurrency import cancel_all, run_all
from imagecache.digest import Digest
from imagecache.erofs.reader import LayerImage
from imagecache.errors import StoreCorrupt
from imagecache.fetch import trust
from imagecache.fetch.lease import leased
from imagecache.fetch.prefetch import BuildPrefetcher
from imagecache.fetch.remote_store import RemoteStore
from imagecache.fetch.running import RunningTransfer
from imagecache.fetch.transfer import Advanced, LayerFetcher
from imagecache.oci.descriptor import Platform
from imagecache.oci.platform import no_match
from imagecache.store.bundle_document import Bundle, PlacedLayer
from imagecache.store.expected_bundle import ExpectedBundle
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store

_DOCUMENTS = 8
"""Requests at once."""


@dataclass(frozen=True, slots=True)
class Described:
    """A bundle that may be fetched: its documents are here, and agree with each other."""

    document: Bundle
    """What this node has of it."""
    whole: Digest
    """Of the whole document, as the ImageCache has it."""
    bodies: Mapping[Digest, bytes]


def own_part(document: Bundle, platform: Platform) -> Bundle:
    """What a node of this platform needs of a bundle. Raises NoMatchingPlatform when that is nothing."""
    own = document.on(platform)
    if not own.images:
        raise no_match(platform, (image.platform for image in document.images))
    return own


async def describe(remote: RemoteStore, expected: ExpectedBundle, platform: Platform) -> Described:
    """Fetch and check the documents of what a bundle has for a platform.

    Raises NotFound, NoMatchingPlatform, StoreUnreachable, StoreRefused, StoreCorrupt, StoreError, ContentError.
    """
    whole = await asyncio.to_thread(expected.read, await remote.bundle(expected.id))
    document = own_part(whole, platform)  # the rest is for other nodes
    limit = asyncio.Semaphore(_DOCUMENTS)

    async def body(digest: Digest) -> bytes:
        async with limit:
            return await remote.document(digest)

    wanted = sorted(document.document_digests())
    bodies = dict(zip(wanted, await run_all(*map(body, wanted)), strict=True))
    await asyncio.to_thread(trust.check, document, bodies)
    return Described(document, expected.digest, bodies)


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

    async def describe(self, expected: ExpectedBundle) -> Described:
        """As the function of this name."""
        return await describe(self._remote, expected, self._platform)

    async def fetch(self, described: Described, progress: Callable[[int], None]) -> None:
        """Have the bundle in the store; ``progress`` gets the bytes of its layer images that are on this node.

        Raises as ``LayerFetcher.fetch``, AlreadyExists. When cancelled, what has arrived is kept for the next time.
        """
        layers = described.document.placed_layers()
        done = dict.fromkeys(layers, 0)

        def listener(name: LayerName) -> Advanced:
            def advanced(size: int) -> None:
                done[name] = size
                progress(sum(done.values()))

            return advanced

        digests = {*described.bodies, *(layer.record.digest for layer in layers.values())}
        async with leased(self._store, layers, digests):
            # The largest first: begun last, it would still run when all others have ended.
            largest_first = sorted(layers.values(), key=lambda layer: -layer.record.size)
            await run_all(*(self._shared(layer, listener(layer.record.name)) for layer in largest_first))
            await asyncio.to_thread(self._commit, described, layers.values())

    def _commit(self, described: Described, layers: Iterable[PlacedLayer]) -> None:
        for layer in layers:
            self._check_bottom(layer)
        # The bundle last: one that the index names is complete, also after a crash in between.
        for digest, body in described.bodies.items():
            self._store.blobs.put_verified(body, digest)
        self._store.bundles.put(described.document, described.whole)

    def _check_bottom(self, layer: PlacedLayer) -> None:
        """One that is right everywhere may have come for another image, in which it is not at the bottom.

        Raises StoreCorrupt.
        """
        if layer.bottom and layer.record.name.space is Space.LAYERS:
            with LayerImage.open(self._store.layers.path(layer.record.name)) as image:
                if not is_right_everywhere(image.header.flags, bottom=True):
                    raise StoreCorrupt(f"layer image {layer.record.name} is not right at the bottom of an image")

    async def _shared(self, layer: PlacedLayer, listener: Advanced) -> None:
        """Have the layer, by a running fetch or a new one. It is cancelled with the last that waits for it."""
        name = layer.record.name
        await self.builds.join(name, listener)
        running = self._running.get(name) or self._start(layer)
        try:
            with running.listening(listener):
                await asyncio.shield(running.task)
        finally:
            if not running.listeners and not running.task.done():
                self._forget(name, running)  # before it has ended: a new waiter must not join one that is cancelled
                await cancel_all([running.task])

    def _start(self, layer: PlacedLayer) -> RunningTransfer:
        running = RunningTransfer()
        running.task = asyncio.create_task(self._layers.fetch(layer, running.advanced))
        self._running[layer.record.name] = running
        running.task.add_done_callback(lambda _task: self._forget(layer.record.name, running))
        return running

    def _forget(self, name: LayerName, running: RunningTransfer) -> None:
        if self._running.get(name) is running:
            del self._running[name]
