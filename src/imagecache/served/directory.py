"""A store read in place: what the server serves, and a volume that the node sees itself (``dir``).

Nothing is written, not even a quarantine, so that a volume may be mounted read-only. It must not verify layer images:
who fetches them does.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from imagecache.digest import Digest
from imagecache.errors import BlobNotFound, StoreCorrupt
from imagecache.oserrors import converting
from imagecache.store.blobs import Blobs
from imagecache.store.model import LayerName, SnapshotDocument
from imagecache.store.paths import StorePaths
from imagecache.store.snapshots import Snapshots


class StoreReader:
    """Blocking reads of the store at ``root``; nothing of it needs to be there yet."""

    def __init__(self, root: Path) -> None:
        self._paths = StorePaths(root)
        self._blobs = Blobs(self._paths, quarantine=False)
        self._snapshots = Snapshots(self._paths, self._blobs)

    def snapshot(self, snapshot_id: str) -> SnapshotDocument:
        """Raises NotFound, BlobNotFound, StoreCorrupt, StoreError."""
        return self._snapshots.get(snapshot_id)

    def document(self, digest: Digest) -> bytes:
        """Raises BlobNotFound, StoreCorrupt, StoreError."""
        return self._blobs.read(digest)

    def open_layer(self, name: LayerName) -> tuple[int, int]:
        """A descriptor to read from, the caller's to close, and the file's size. Raises BlobNotFound, StoreError."""
        path = self._paths.layer(name)
        with converting(path):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError as error:
                raise BlobNotFound(
                    f"the store lacks layer image {name}", hint="create the image cache again"
                ) from error
            return fd, os.fstat(fd).st_size

    def ready(self) -> None:
        """Raises StoreError when there is no store to read."""
        self._snapshots.index()


class DirectoryStore:
    """``RemoteStore`` for a directory."""

    def __init__(self, root: Path) -> None:
        self._reader = StoreReader(root)

    async def snapshot(self, snapshot_id: str) -> SnapshotDocument:
        return await asyncio.to_thread(self._reader.snapshot, snapshot_id)

    async def document(self, digest: Digest) -> bytes:
        return await asyncio.to_thread(self._reader.document, digest)

    async def layer(self, name: LayerName, offset: int, target: memoryview) -> None:
        await asyncio.to_thread(self._fill, name, offset, target)

    def _fill(self, name: LayerName, offset: int, target: memoryview) -> None:
        fd, _size = self._reader.open_layer(name)
        try:
            filled = 0
            while filled < len(target):
                count = read_into(fd, target[filled:], offset + filled)
                if not count:
                    raise StoreCorrupt(f"layer image {name} ends before byte {offset + len(target)}")
                filled += count
        finally:
            os.close(fd)


def read_into(fd: int, target: memoryview, offset: int) -> int:
    """At most as many bytes as ``target`` has; says how many, none at the end. Raises StoreError."""
    with converting("a layer image"):
        return os.preadv(fd, [target], offset)
