"""Layer images: staged, committed under a name, never changed afterwards.

To rely on a layer image, first lease its name, then check that it exists: so a collection cannot remove it in between.
It must not look into a layer image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imagecache.digest import ChainID, DiffID, Digest
from imagecache.errors import BlobNotFound
from imagecache.oserrors import converting
from imagecache.store import verity
from imagecache.store.downloads import Download
from imagecache.store.durable_files import StagedFile
from imagecache.store.layer_name import LayerName
from imagecache.store.locks import FileLock
from imagecache.store.paths import StorePaths


@dataclass(frozen=True, slots=True)
class ServedLayer:
    """A layer image that serves one chainID on this node. Its file existed when this was made; a lease keeps it."""

    chain_id: ChainID
    diff_id: DiffID
    parent: ChainID | None
    """ChainID of the layer below; None for a bottom layer."""
    name: LayerName
    path: Path
    size: int
    """Bytes of the layer image file."""


class StagedLayer(StagedFile):
    """A layer image that is being written, at ``fd``; it is not visible before ``commit``."""

    def __init__(self, paths: StorePaths, download: Download | None = None) -> None:
        super().__init__(paths.staging, (download.path, download.fd) if download else None)
        self._paths = paths

    def commit(self, name: LayerName) -> bool:
        """Make it the layer image ``name``, durably; False when that exists, and is kept.

        Raises StoreError, NoSpace, StoreDenied.
        """
        return self.publish(self._paths.layer(name))


class Layers:
    def __init__(self, paths: StorePaths) -> None:
        self._paths = paths

    def stage(self) -> StagedLayer:
        """A context manager: write to its ``fd``, then ``commit``. Without a commit, the file is removed."""
        return StagedLayer(self._paths)

    def announce(self, lock: FileLock, staged: StagedLayer) -> None:
        """Let other processes read the file as a partial layer. Write it in order. ``lock`` is of its name."""
        lock.note(staged.path.name)

    def open_partial(self, name: LayerName) -> int | None:
        """The file of the partial layer ``name``, to read from; the caller closes it. None: it is not being made.

        Its writer may be dead, or start again. Raises StoreError, StoreDenied.
        """
        lock = self._paths.layer_lock(name)
        with converting(lock), suppress(FileNotFoundError):
            staged = self._paths.staged(lock.read_text(errors="replace"))
            if staged is not None:
                # O_NOFOLLOW: the name comes from a file that any process with access to the store may have written.
                return os.open(staged, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return None

    def adopt(self, download: Download) -> StagedLayer:
        """As ``stage``, of the complete and verified file of a download from another store; nothing is copied."""
        return StagedLayer(self._paths, download)

    def path(self, name: LayerName) -> Path:
        """Path of the layer image, whether or not it exists."""
        return self._paths.layer(name)

    def has(self, name: LayerName) -> bool:
        return self._paths.layer(name).is_file()

    def size(self, name: LayerName) -> int:
        """Bytes of the file. Raises BlobNotFound, StoreError."""
        path = self._paths.layer(name)
        with converting(path):
            try:
                return path.stat().st_size
            except FileNotFoundError as error:
                raise BlobNotFound(f"{path} is missing from the store", hint="create the image cache again") from error

    def seal(self, name: LayerName) -> Digest | None:
        """Of a store that nodes share: have the kernel refuse what is changed in the file from now on (``verity``).

        None: its filesystem, or this kernel, cannot; or nobody shares the store. Raises StoreError, StoreDenied.
        """
        return verity.seal(self._paths.layer(name)) if self._paths.is_shared else None

    def names(self) -> Iterator[LayerName]:
        """Names of all layer images, in no particular order."""
        return (name for _path, name in self._paths.layer_files() if name is not None)

    def lock(self, name: LayerName) -> FileLock:
        """The lock for making ``name``: of several processes one makes it, and the others find it."""
        return FileLock(self._paths.layer_lock(name))
