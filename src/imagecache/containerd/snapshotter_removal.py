"""Remove what depends on our snapshotter from a containerd that has another default snapshotter now.

No other snapshotter can unpack an image whose layers only we have, and kubelet would never pull it again: its record is
deleted. Images with all their layers, or with snapshots of the default snapshotter, stay, and so do containers. It must
not configure or restart anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from imagecache.containerd.also_unpack import HELD, RELEASED
from imagecache.containerd.api import Containerd, ContentStore, Session
from imagecache.containerd.image_records import unpacked_into
from imagecache.containerd.modes import loaded
from imagecache.digest import Digest
from imagecache.errors import HostError, ImageCacheError
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
    default: str
    """The snapshotter of new containers."""

    async def is_loaded(self) -> bool:
        """Whether containerd has our snapshotter loaded."""
        return loaded(await self.containerd.snapshotter_plugins(), self.snapshotter)

    async def delete_image_records(self) -> tuple[str, ...]:
        """Delete the records of images that only we can unpack; returns their names, each after its namespace."""
        forgotten: list[str] = []
        for namespace in await self.containerd.namespaces():
            names = await self._delete_unusable(self.containerd.session(namespace))
            forgotten += [f"{namespace}/{name}" for name in names]
        return tuple(forgotten)

    async def _delete_unusable(self, session: Session) -> list[str]:
        unusable = [image for image in await session.images.all() if not await self._is_usable(session, image.target)]
        return [image.name for image in unusable if await session.images.delete(image.name, image.target)]

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
        others = [each.id for each in await self.containerd.snapshotter_plugins() if not each.error]
        for namespace in await self.containerd.namespaces():
            session = self.containerd.session(namespace)
            for image in await session.images.all():
                for manifest in await _manifests(session.content, image.target):
                    if await self._release(session.content, manifest.config.digest):
                        await session.images.delete(image.name, image.target)
            for name in others:
                with contextlib.suppress(HostError):  # one whose program is away keeps nobody from leaving
                    held = [info.name async for info in session.snapshots.list(name) if HELD in info.labels]
                    for top in held:
                        await session.snapshots.label(name, top, RELEASED)
            await session.images.put(_COLLECTED.name, _COLLECTED.target, {})
            await session.images.delete(_COLLECTED.name, _COLLECTED.target.digest, sync=True)

    async def _release(self, content: ContentStore, config: Digest) -> bool:
        """Remove the label of an image's config that keeps its snapshots. True: we have unpacked it elsewhere too."""
        key, labels = _ROOT + self.snapshotter, await content.labels(config) or {}
        body = await content.read(config) if key in labels else None
        if body is not None:
            await content.write(body, {key: ""})
        return bool(unpacked_into(labels))

    async def _is_usable(self, session: Session, target: Digest) -> bool:
        """Whether the default snapshotter has the image or can unpack it. What cannot be read counts as usable."""
        for manifest in await _manifests(session.content, target):
            if not await self._is_unpacked(session, manifest) and not await _has_layers(session.content, manifest):
                return False
        return True

    async def _is_unpacked(self, session: Session, manifest: Manifest) -> bool:
        labels = await session.content.labels(manifest.config.digest) or {}
        top = labels.get(_ROOT + self.default)  # may point at a snapshot that was collected
        return top is not None and await session.snapshots.stat(self.default, top) is not None


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
    return [found for entry in document.manifests for found in await _manifests(content, entry.digest)]


async def _has_layers(content: ContentStore, manifest: Manifest) -> bool:
    for layer in manifest.layers:
        if await content.labels(layer.digest) is None:
            return False
    return True
