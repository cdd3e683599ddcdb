"""Take our snapshotter's traces out of a containerd whose default snapshotter is another one again.

An image whose layers only we have cannot be unpacked by anybody else, and kubelet would never pull it again: its record
goes. What has all its layers, or the other snapshotter's own snapshots, stays. Containers stay in any case. It must not
configure or restart anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from imagecache.digest import Digest
from imagecache.errors import ImageCacheError
from imagecache.node.modes import loaded
from imagecache.node.ports import Containerd, ContentStore, Session, SnapshotInfo
from imagecache.oci.manifest import Manifest, detect_media_type, parse_document

_ROOT = "containerd.io/gc.ref.snapshot."


@dataclass(frozen=True, slots=True)
class Departure:
    """All methods are idempotent and raise ContainerdUnavailable."""

    containerd: Containerd
    snapshotter: str
    """Ours."""
    default: str
    """The one that new containers get."""

    async def is_known(self) -> bool:
        """Whether containerd has our snapshotter loaded."""
        return loaded(await self.containerd.snapshotter_plugins(), self.snapshotter)

    async def forget_images(self) -> tuple[str, ...]:
        """Delete the records of images that only we can unpack; returns their names, each after its namespace."""
        forgotten: list[str] = []
        for namespace in await self.containerd.namespaces():
            names = await self._forget_images(self.containerd.session(namespace))
            forgotten += [f"{namespace}/{name}" for name in names]
        return tuple(forgotten)

    async def _forget_images(self, session: Session) -> list[str]:
        unusable = [image for image in await session.images.all() if not await self._is_usable(session, image.target)]
        return [image.name for image in unusable if await session.images.delete(image.name, image.target)]

    async def in_use(self) -> int:
        """Snapshots that containers have, in all namespaces."""
        if not await self.is_known():
            return 0
        return sum([1 async for _, info in self._snapshots() if not info.committed])

    async def remove_snapshots(self) -> int:
        """Every snapshot of ours, children first. For when none is in use."""
        if not await self.is_known():
            return 0
        removed = 0
        while leaves := await self._leaves():
            for session, info in leaves:
                await session.snapshots.remove(self.snapshotter, info.name)
            removed += len(leaves)
        return removed

    async def _leaves(self) -> list[tuple[Session, SnapshotInfo]]:
        """Committed ones without children; parents are of the same namespace."""
        found = [(session, info) async for session, info in self._snapshots()]
        parents = {(id(session), info.parent) for session, info in found}
        return [(s, info) for s, info in found if info.committed and (id(s), info.name) not in parents]

    async def _snapshots(self) -> AsyncIterator[tuple[Session, SnapshotInfo]]:
        for namespace in await self.containerd.namespaces():
            session = self.containerd.session(namespace)
            async for info in session.snapshots.list(self.snapshotter):
                yield session, info

    async def _is_usable(self, session: Session, target: Digest) -> bool:
        """Whether the other snapshotter has the image or can unpack it. What cannot be read is not ours to judge."""
        for manifest in await _manifests(session.content, target):
            if not await self._is_unpacked(session, manifest) and not await _has_layers(session.content, manifest):
                return False
        return True

    async def _is_unpacked(self, session: Session, manifest: Manifest) -> bool:
        labels = await session.content.labels(manifest.config.digest) or {}
        top = labels.get(_ROOT + self.default)
        return top is not None and await session.snapshots.stat(self.default, top) is not None


async def _manifests(content: ContentStore, target: Digest) -> Sequence[Manifest]:
    """Those that are there: of an index, only the platforms that were pulled."""
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
