"""Native mode: which of our layer images containerd's own erofs snapshotter uses.

containerd records a layer that it found in ``layer_content_caches`` as labels of the snapshot (2.4.2), or as a symbolic
link in the snapshot's directory (earlier 2.4), and mounts the file itself. It sends no event when it releases one, so
the agent polls, and leases what is in use. It must not change anything in containerd.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from imagecache.containerd.api import SNAPSHOTTERS, Containerd, ContainerRecord, Plugin, Snapshots
from imagecache.containerd.modes import NATIVE_SNAPSHOTTER, loaded
from imagecache.digest import Digest
from imagecache.errors import InvalidDigest
from imagecache.store.layer_name import LayerName, Space

SOURCE_LABEL = "io.containerd.erofs.v1/blob.ref"
_LINK = "layer.erofs"


class LayerLeases(Protocol):
    """The store's leases."""

    def lease_many(self, holder: str, names: Iterable[LayerName]) -> None:
        """Idempotent, durable when it returns."""

    def release(self, holder: str, name: LayerName) -> None:
        """Idempotent."""

    def of(self, holder: str) -> frozenset[LayerName]:
        """The names that the holder has leased."""


class NativeUse:
    """Layer images below ``layers`` that snapshots of this containerd use."""

    def __init__(self, containerd: Containerd, layers: Path) -> None:
        self._containerd = containerd
        self._layers = layers

    async def names(self) -> frozenset[LayerName]:
        """In all namespaces. Raises ContainerdUnavailable: the answer is unknown then, and no lease may be released."""
        plugins = await self._containerd.snapshotter_plugins()
        if not loaded(plugins, NATIVE_SNAPSHOTTER):
            return frozenset()
        # 2.4.0 and 2.4.1 only have the links
        files = {file for plugin in plugins for file in await asyncio.to_thread(_linked, plugin)}
        for namespace in await self._containerd.namespaces():
            snapshots = self._containerd.session(namespace).snapshots
            async for info in snapshots.list(NATIVE_SNAPSHOTTER):
                if SOURCE_LABEL in info.labels:
                    files.add(Path(info.labels[SOURCE_LABEL]))
        names = (layer_name(file, self._layers) for file in files)
        return frozenset(name for name in names if name is not None)

    async def renew(self, leases: LayerLeases, holder: str) -> frozenset[LayerName]:
        """Lease what is in use and release what no longer is; returns what is leased now."""
        names = await self.names()
        # lease before release, so that no layer in use is without a lease in between
        await asyncio.to_thread(leases.lease_many, holder, sorted(names))
        for name in await asyncio.to_thread(leases.of, holder) - names:
            await asyncio.to_thread(leases.release, holder, name)
        return names


def holder_of(address: Path) -> str:
    """Lease holder for the containerd at this socket; several may share a store."""
    return f"native-{hashlib.sha256(os.fsencode(address.resolve())).hexdigest()[:16]}"


def layer_name(file: Path, layers: Path) -> LayerName | None:
    """The name of ``<layers>/<algorithm>/<2 hex>/<hex>.erofs``; None for any other file."""
    with contextlib.suppress(ValueError, InvalidDigest):
        algorithm, _, name = file.relative_to(layers).parts
        return LayerName(space=Space.LAYERS, digest=Digest(f"{algorithm}:{name.removesuffix('.erofs')}"))
    return None


class LayerFiles:
    """The layer images of containers; containerd is asked once for each layer that they share."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._below: dict[str, list[Path]] = {}

    async def below(self, container: ContainerRecord) -> list[Path]:
        """The top one first. Raises ContainerdUnavailable."""
        key = container.snapshot_key if container.snapshotter == NATIVE_SNAPSHOTTER else ""
        asked: list[tuple[str, list[Path]]] = []
        while key and key not in self._below:
            info = await self._snapshots.stat(NATIVE_SNAPSHOTTER, key)
            source = info.labels.get(SOURCE_LABEL) if info is not None else None
            asked.append((key, [Path(source)] if source else []))
            key = info.parent if info is not None else ""
        files = self._below.get(key, [])
        for each, own in reversed(asked):
            files = self._below[each] = own + files
        return files


def _linked(plugin: Plugin) -> list[Path]:
    """Targets of the links that the erofs snapshotter has made in the directories of its snapshots."""
    root = plugin.exports.get("root", "")
    if plugin.kind != SNAPSHOTTERS or plugin.id != NATIVE_SNAPSHOTTER or not root:
        return []
    places = (directory / _LINK for directory in Path(root, "snapshots").glob("*"))
    return [place.readlink() for place in places if place.is_symlink()]
