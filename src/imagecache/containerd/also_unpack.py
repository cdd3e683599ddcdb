"""Unpack an image into further snapshotters, from the tars that the store's layer images hold.

Pods of a runtime handler with a snapshotter of its own start from there, without blobs and without a registry. Each
layer takes the way of a pull: the tar in the content store, under its diffID; ``Prepare``, containerd's own ``Apply``,
``Commit`` under the chainID; the tar removed. It must not decide which snapshotters, nor touch images.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from typing import Protocol

from imagecache.clock import Clock
from imagecache.containerd.api import Session, SnapshotKey, SnapshotMount
from imagecache.containerd.snapshot_chain import layer_key
from imagecache.errors import NoSpace, StoreCorrupt
from imagecache.limits import MIB
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor
from imagecache.store.bundle_document import ImageRecord, LayerRecord

LEASE = 24 * 3600
"""Seconds after which containerd drops what was unpacked in vain. A try that takes half of them is cut by nothing."""
_LARGE = 64 * MIB
"""After a tar of this size its collection is waited for, so that the disk holds one of them at most."""
_GC_ROOT = "containerd.io/gc.root"
HELD = "imagecache.dev/held"
"""On a snapshot: we have made it a root of containerd's collection, and may undo that."""
RELEASED = {_GC_ROOT: "", HELD: ""}
"""Undoes it."""
_Waiting = dict[str, tuple[SnapshotKey, Sequence[SnapshotMount]]]


class Tars(Protocol):
    def open(self, layer: LayerRecord) -> AsyncGenerator[bytes]:
        """The layer's tar, in pieces of at most 16 MiB (containerd's largest message); the caller closes it.

        Raises BlobNotFound, StoreError; StoreCorrupt at the end when it does not have the layer's diffID.
        """


class AlsoUnpacker:
    """Several may run at once, beside pulls: who comes second finds the snapshot."""

    def __init__(self, tars: Tars, clock: Clock, room: Callable[[], Awaitable[int]] | None = None) -> None:
        """``room``: bytes that may be unpacked now, where no budget has decided that before."""
        self._tars = tars
        self._clock = clock
        self._room = room

    async def unpack(self, session: Session, image: ImageRecord, snapshotters: Collection[str]) -> None:
        """Make the image's snapshots in these snapshotters; the lease of ``session`` keeps them, those that exist too.

        Raises BlobNotFound, StoreError, StoreCorrupt, SnapshotNotFound, ContainerdUnavailable, ContainerdMisconfigured,
        NoSpace before anything is unpacked.
        """
        await self._check_room(session, image, snapshotters)
        parent = ""
        for layer in image.layers:
            last = layer.chain_id == image.layers[-1].chain_id
            waiting: _Waiting = {}
            try:
                for name in sorted(snapshotters):
                    # without the diffID: a snapshotter that looks for it may answer with mounts of a file of ours
                    snapshot = layer_key(name, layer, parent, self._clock)
                    mounts = await session.snapshots.prepare(snapshot)
                    if mounts is None:
                        await session.snapshots.keep(name, layer.chain_id)
                    else:
                        waiting[name] = (snapshot, mounts)
                if waiting:
                    await self._fill(session, layer, waiting, last=last)
            finally:
                for snapshot, _ in waiting.values():  # after a failure, or when a pull was faster
                    await session.snapshots.remove(snapshot.snapshotter, snapshot.key)
            parent = layer.chain_id

    async def hold(self, session: Session, image: ImageRecord, snapshotters: Collection[str]) -> None:
        """As ``unpack``, for an image that gets no record to keep its snapshots: they stay until ``release``."""
        await self.unpack(session, image, snapshotters)
        since = self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        for name in snapshotters if image.layers else ():
            await session.snapshots.label(name, image.layers[-1].chain_id, {_GC_ROOT: since, HELD: "true"})

    async def release(self, session: Session, image: ImageRecord, snapshotters: Iterable[str]) -> bool:
        """What ``hold`` keeps there is containerd's to collect; whether there was something. Idempotent."""
        released = False
        for name in snapshotters if image.layers else ():
            top = image.layers[-1].chain_id
            info = await session.snapshots.stat(name, top)
            if info is not None and HELD in info.labels:
                await session.snapshots.label(name, top, RELEASED)
                released = True
        return released

    async def _check_room(self, session: Session, image: ImageRecord, snapshotters: Collection[str]) -> None:
        """As ``agent.plan`` does: what will be unpacked, and the largest tar, which is stored meanwhile."""
        if self._room is None:
            return
        missing = [
            layer.tar_size
            for layer in image.layers
            for name in snapshotters
            if await session.snapshots.stat(name, layer.chain_id) is None
        ]
        needed = sum(missing) + max(missing, default=0)
        if missing and needed > (room := await self._room()):
            raise NoSpace(
                f"{image.reference} needs {needed} bytes of the node's disk, and {max(0, room)} are spare",
                hint="remove images or caches, or use a larger disk; it is tried again",
            )

    async def _fill(self, session: Session, layer: LayerRecord, waiting: _Waiting, *, last: bool) -> None:
        """Unpack the layer onto what was prepared; what is committed leaves ``waiting``."""
        if layer.tar_size == 0:  # there is nothing to store and to unpack, and containerd wants no empty blobs
            for name in list(waiting):
                await self._commit(session, layer, waiting, name)
            return
        tar = Descriptor(media_type=mediatypes.OCI_LAYER, digest=layer.diff_id, size=layer.tar_size)
        # a lease of its own removes the tar, and leaves it when something else needs it: a blob that is not compressed
        async with session.leased(LEASE, sync=last or layer.tar_size >= _LARGE) as temporary:
            async with aclosing(self._tars.open(layer)) as pieces:
                await temporary.content.write_from(pieces, tar)
            for name, (_, mounts) in list(waiting.items()):
                applied = await session.apply(tar, mounts)
                if applied != layer.diff_id:
                    raise StoreCorrupt(
                        f"containerd unpacked {applied} from layer image {layer.name}",
                        hint="run: imagecache check --deep --quarantine",
                    )
                await self._commit(session, layer, waiting, name)

    async def _commit(self, session: Session, layer: LayerRecord, waiting: _Waiting, name: str) -> None:
        """What was prepared in a snapshotter becomes the layer's snapshot there, and leaves ``waiting``."""
        snapshot, _ = waiting[name]
        if await session.snapshots.commit(snapshot, layer.chain_id):
            del waiting[name]
        else:
            await session.snapshots.keep(name, layer.chain_id)
