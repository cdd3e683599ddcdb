"""Layer images: staged, committed under a name, never changed afterwards.

Whoever relies on a layer image holds a lease on its name first and looks whether it is there second; then a collection
cannot take it in between. It must not look into a layer image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from imagecache.errors import BlobNotFound
from imagecache.oserrors import converting
from imagecache.store.downloads import Download
from imagecache.store.files import StagedFile
from imagecache.store.locks import FileLock
from imagecache.store.model import LayerName
from imagecache.store.paths import StorePaths


class StagedLayer(StagedFile):
    """A layer image being written, at ``fd``; nothing of it is visible before ``commit``."""

    def __init__(self, paths: StorePaths, download: Download | None = None) -> None:
        super().__init__(paths.staging, (download.path, download.fd) if download else None)
        self._paths = paths

    def commit(self, name: LayerName) -> bool:
        """Make it the layer image ``name``, durably; False when the store has one already, and keeps that.

        Raises StoreError, NoSpace, StoreDenied.
        """
        return self.publish(self._paths.layer(name))


class Layers:
    def __init__(self, paths: StorePaths) -> None:
        self._paths = paths

    def stage(self) -> StagedLayer:
        """A context manager: write to its ``fd``, then ``commit``; leaving without a commit drops the file."""
        return StagedLayer(self._paths)

    def announce(self, lock: FileLock, staged: StagedLayer) -> None:
        """Let others look at a layer image while it is made, in order and for its own name. ``lock`` is the name's."""
        lock.note(staged.path.name)

    def open_partial(self, name: LayerName) -> int | None:
        """The file that somebody is making ``name`` of, to look at; the caller closes it. None: nobody, as far as seen.

        Its maker may be dead, or begin again. Raises StoreError, StoreDenied.
        """
        lock = self._paths.layer_lock(name)
        with converting(lock), suppress(FileNotFoundError):
            staged = self._paths.staged(lock.read_text(errors="replace"))
            if staged is not None:
                return os.open(staged, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return None

    def adopt(self, download: Download) -> StagedLayer:
        """As ``stage``, with the complete and verified file of a download from another store; nothing is copied."""
        return StagedLayer(self._paths, download)

    def path(self, name: LayerName) -> Path:
        """Where the layer image is, or would be."""
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
                raise BlobNotFound(f"the store lacks {path}", hint="create the image cache again") from error

    def names(self) -> Iterator[LayerName]:
        """Names of all layer images, in no promised order."""
        return (name for _path, name in self._paths.layer_files() if name is not None)

    def lock(self, name: LayerName) -> FileLock:
        """The lock under which ``name`` is made, so that of several processes one works and the others find it."""
        return FileLock(self._paths.layer_lock(name))
