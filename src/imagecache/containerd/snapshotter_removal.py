"""Remove what depends on a snapshotter from a containerd that has another default snapshotter now: ours, mostly.

No other snapshotter can unpack an image whose layers only we have, and kubelet would never pull it again: its record is
deleted. Images with all their layers, or with snapshots of the default snapshotter, stay, and so do containers. What
the former snapshotter has not unpacked could not start before either, or by another handler: that is not our business.
It must not configure or restart anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from imagecache.containerd.also_unpack import HELD, RELEASED
from imagecache.containerd.api import Containerd, ContentStore, Session
from imagecache.containerd.image_records import unpacked_into
from imagecache.containerd.modes import loaded
from imagecache.digest import Digest
from imagecache.errors import HostError, ImageCacheError, SnapshotNotFound
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.manifest import Manifest, detect_media_type, parse_document

_ROOT = "containerd.io/gc.ref.snapshot."


@dataclass(frozen=True, slots=True)
class _Record:
    name: str
    target: Descriptor


_COLLECTED = _Record(
    "imagecache.invalid/leaving:now",
    Descriptor(media_type=mediatypes.OCI_MANIFEST, digest=Digest.sha256(b""), size=1),
)
"""A record that is made to be deleted with ``sync``: containerd answers after the collection that follows."""


@dataclass(frozen=True, slots=True)
class SnapshotterRemoval:
    """All methods are idempotent and raise ContainerdUnavailable."""

    containerd: Containerd
    snapshotter: str
    """Ours."""

    async def is_loaded(self) -> bool:
        """Whether containerd has our snapshotter loaded."""
        return loaded(await self.containerd.snapshotter_plugins(), self.snapshotter)

    async def delete_image_records(self, other: str, *, ours: bool = False) -> tuple[str, ...]:
        """Delete the records of images that only we can unpack; returns their names, each after its namespace.

        Args:
            other: containerd's default snapshotter without us. Empty when nobody can say: then any that is loaded.
            ours: ours is the default now, so those go that only ``other`` can unpack.
        """
        former, now = (other, {self.snapshotter}) if ours else (self.snapshotter, {other})
        if not other:
            now = {each.id for each in await self.containerd.snapshotter_plugins() if not each.error} - {former}
        forgotten: list[str] = []
        for namespace in await self.containerd.namespaces():
            session = self.containerd.session(namespace)
            lost = [each for each in await session.images.all() if await _is_lost(session, each.target, former, now)]
            names = [image.name for image in lost if await session.images.delete(image.name, image.target)]
            forgotten += [f"{namespace}/{name}" for name in names]
        return tuple(forgotten)

    async def in_use(self) -> int:
        """Snapshots that containers have, in all namespaces."""
        if not await self.is_loaded():
            return 0
        count = 0
        for namespace in await self.containerd.namespaces():
            async for info in self.containerd.session(namespace).snapshots.list(self.snapshotter):
                count += not info.committed
        return count

    async def remove_snapshots(self) -> None:
        """Release every snapshot of ours that no container has, and wait for containerd's collection.

        They are not removed one by one: containerd refuses that for one whose child its collector took (1.6, 2.4).
        Images that we have unpacked into other snapshotters go with their records; private ones have none.
        """
        await self.release_held()  # and of unfinished attaches
        for namespace in await self.containerd.namespaces():
            session = self.containerd.session(namespace)
            for image in await session.images.all():
                for manifest in await _manifests(session.content, image.target):
                    if await self._release(session.content, manifest.config.digest):
                        await session.images.delete(image.name, image.target)
            await session.images.put(_COLLECTED.name, _COLLECTED.target, {})
            await session.images.delete(_COLLECTED.name, _COLLECTED.target.digest, sync=True)

    async def release_held(self) -> None:
        """Private images that we have unpacked, and what unfinished attaches have, are containerd's to collect."""
        others = [each.id for each in await self.containerd.snapshotter_plugins() if not each.error]
        for namespace in await self.containerd.namespaces():
            session = self.containerd.session(namespace)
            await session.end_leases()
            snapshots = session.snapshots
            for name in others:
                with contextlib.suppress(HostError):  # one whose program is away keeps nobody from leaving
                    for top in [info.name async for info in snapshots.list(name) if HELD in info.labels]:
                        with contextlib.suppress(SnapshotNotFound):  # somebody has removed it since
                            await snapshots.label(name, top, RELEASED)

    async def _release(self, content: ContentStore, config: Digest) -> bool:
        """Remove the label of an image's config that keeps its snapshots. True: we have unpacked it elsewhere too."""
        key, labels = _ROOT + self.snapshotter, await content.labels(config) or {}
        body = await content.read(config) if key in labels else None
        if body is not None:
            await content.write(body, {key: ""})
        return bool(unpacked_into(labels))


async def _is_lost(session: Session, target: Digest, former: str, now: Collection[str]) -> bool:
    """Whether ``former`` has unpacked the image, and none of ``now`` has it or can unpack it.

    The labels of a config name the snapshotters (containerd, core/unpack). What cannot be read is not lost.
    """
    for manifest in await _manifests(session.content, target):
        tops = {
            key.removeprefix(_ROOT): top
            for key, top in (await session.content.labels(manifest.config.digest) or {}).items()
            if key.startswith(_ROOT)
        }
        if former not in tops:
            continue
        others = {name: top for name, top in tops.items() if name in now}
        if not await _any_exists(session, others) and not await _has_layers(session.content, manifest):
            return True
    return False


async def _any_exists(session: Session, tops: Mapping[str, str]) -> bool:
    """Whether one of these snapshots, by their snapshotters, was not collected."""
    for snapshotter, top in tops.items():
        if await session.snapshots.stat(snapshotter, top) is not None:
            return True
    return False


async def _manifests(content: ContentStore, target: Digest) -> Sequence[Manifest]:
    """Those that exist: of an index, only the platforms that were pulled."""
    body = await content.read(target)
    if body is None:
        return ()
    try:
        document = parse_document(body, detect_media_type(body, ""))
    except ImageCacheError:
        return ()
    if isinstance(document, Manifest):
        return (document,)
    return [found for digest in document.digests for found in await _manifests(content, digest)]


async def _has_layers(content: ContentStore, manifest: Manifest) -> bool:
    for layer in manifest.layers:
        if await content.labels(layer.digest) is None:
            return False
    return True
