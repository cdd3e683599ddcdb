"""The snapshots of one image, made through containerd's API without any layer's content.

In proxy mode containerd asks our snapshotter, which answers "already exists" for every layer that the store has. In
native mode containerd's erofs snapshotter finds the layer image by its diffID and returns read-only mounts: the
snapshot is complete and only has to be committed. Both are what containerd itself does in a pull (``core/unpack``).
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import replace

from imagecache.clock import Clock
from imagecache.concurrency import finish_all
from imagecache.containerd.api import SnapshotKey, SnapshotMount, Snapshots
from imagecache.containerd.image_records import SNAPSHOT_DIFF_ID, SNAPSHOT_REF
from imagecache.containerd.modes import Choice
from imagecache.digest import ChainID
from imagecache.errors import BlobNotFound, ContainerdMisconfigured
from imagecache.settings.choices import Mode
from imagecache.store.bundle_document import ImageRecord, LayerRecord
from imagecache.store.layer_name import Space


class ChainPreparer:
    def __init__(self, snapshots: Snapshots, choice: Choice, clock: Clock) -> None:
        self._snapshots = snapshots
        self._choice = choice
        self._clock = clock

    async def prepare(self, image: ImageRecord) -> bool:
        """Make every snapshot of the image; those that exist stay.

        Returns False, having made none, when native mode cannot serve a layer: it reads only ``layers/``.

        Raises:
            BlobNotFound, ContainerdMisconfigured: the snapshotter does not have a layer that the store has.
        """
        if self._choice.mode is Mode.NATIVE:
            return await self._native(image)
        parent = ""
        for layer in image.layers:
            await self._proxied(image, layer, parent)
            parent = layer.chain_id
        return True

    async def _proxied(self, image: ImageRecord, layer: LayerRecord, parent: str) -> None:
        snapshot = self._key(layer, parent)
        if await self._snapshots.prepare(snapshot) is not None:
            # the layer is not served: what was prepared is a writable snapshot that nothing will unpack into
            await self._snapshots.remove(snapshot.snapshotter, snapshot.key)
            raise self._missing(image, layer)

    async def _native(self, image: ImageRecord) -> bool:
        """All layers concurrently and without parents, which are set at the commits, as in containerd's own pull."""
        waiting: dict[ChainID, SnapshotKey] = {}
        try:
            # all of them: one that is cut in the middle would leave a snapshot that is not in ``waiting``
            if not all(await finish_all(*(self._stage(image, layer, waiting) for layer in image.layers))):
                return False
            parent = ""
            for layer in image.layers:
                if layer.chain_id in waiting:
                    await self._commit(replace(waiting[layer.chain_id], parent=parent), layer)
                    del waiting[layer.chain_id]
                parent = layer.chain_id
        finally:
            for snapshot in waiting.values():  # after a failure, or when one layer cannot be served
                await self._snapshots.remove(snapshot.snapshotter, snapshot.key)
        return True

    async def _stage(self, image: ImageRecord, layer: LayerRecord, waiting: dict[ChainID, SnapshotKey]) -> bool:
        """True when the snapshot exists, or is in ``waiting`` for its commit."""
        if layer.name.space is not Space.LAYERS:  # the erofs snapshotter looks up by diffID, so never finds these
            return await self._snapshots.stat(self._choice.snapshotter, layer.chain_id) is not None
        snapshot = self._key(layer, "")
        mounts = await self._snapshots.prepare(snapshot)
        if mounts is None:
            return True
        waiting[layer.chain_id] = snapshot
        if not _complete(mounts):
            raise self._missing(image, layer)
        return True

    async def _commit(self, snapshot: SnapshotKey, layer: LayerRecord) -> None:
        if not await self._snapshots.commit(snapshot, layer.chain_id):  # a pull of the same layer was faster
            await self._snapshots.keep(snapshot.snapshotter, layer.chain_id)
            await self._snapshots.remove(snapshot.snapshotter, snapshot.key)

    def _key(self, layer: LayerRecord, parent: str) -> SnapshotKey:
        key = layer_key(self._choice.snapshotter, layer, parent, self._clock)
        return replace(key, labels={**key.labels, SNAPSHOT_DIFF_ID: layer.diff_id})

    def _missing(self, image: ImageRecord, layer: LayerRecord) -> BlobNotFound | ContainerdMisconfigured:
        if self._choice.mode is Mode.NATIVE:
            return ContainerdMisconfigured(
                f"containerd's erofs snapshotter did not find layer image {layer.name}",
                hint="layer_content_caches must name the store's layers: imagecache containerd-config install",
                image=image.reference,
            )
        return BlobNotFound(
            f"snapshotter {self._choice.snapshotter} does not have layer image {layer.name}",
            hint="the agent must use the same store as this command; run: imagecache doctor",
            image=image.reference,
        )


def layer_key(snapshotter: str, layer: LayerRecord, parent: str, clock: Clock) -> SnapshotKey:
    """A key for unpacking, in containerd's own form, which tells snapshotters a layer from a container."""
    unique = base64.urlsafe_b64encode(secrets.token_bytes(3)).decode()
    nanoseconds = clock.now().microsecond * 1000
    return SnapshotKey(
        snapshotter=snapshotter,
        key=f"extract-{nanoseconds}-{unique} {layer.chain_id}",
        parent=parent,
        labels={SNAPSHOT_REF: layer.chain_id},
    )


def _complete(mounts: tuple[SnapshotMount, ...]) -> bool:
    """Containerd's own test: the last mount is read-only, so nothing has to be unpacked."""
    return bool(mounts) and "ro" in mounts[-1].options
