"""Durable writes: a file is complete, and survives a power failure.

The order is always the same: write a temporary file, fsync it, rename or link it, fsync the directory. ``StagedFile``
makes immutable files whose first writer wins (layer images, blobs); ``write_atomic`` replaces small documents. It must
not know what is in a file.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Self

from imagecache.oserrors import converting
from imagecache.store.locks import open_locked
from imagecache.store.owner import make_directory

IMMUTABLE = 0o400


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``. Raises OSError."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view = view[count:]
        offset += count


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, mtime_ns: int | None = None) -> None:
    """Replace the content of ``path``: readers see the old or the new one, also after a power failure.

    The temporary file is beside the target, named ``.<name>.<random>.tmp``, and locked, so that a collection knows
    whether its writer lives. Raises StoreError, NoSpace, StoreDenied.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    with converting(path):
        fd = open_locked(temporary, create=os.O_CREAT | os.O_EXCL)
        try:
            write_all(fd, data, 0)
            os.fchmod(fd, mode)
            if mtime_ns is not None:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            os.fsync(fd)  # before the rename: else a power failure could leave the new name with no content
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        fsync_directory(path.parent)


class StagedFile:
    """A file that has no final name yet. ``publish`` gives it one; otherwise it is removed when the block ends.

    ``fd`` is open for reading and writing until the block ends, and has the lock that keeps collections away; a worker
    process that inherits the descriptor keeps the lock, too. With ``taken``, it is at first a file in another
    directory that the caller has open and locked, and that loses its name there.
    """

    def __init__(self, directory: Path, taken: tuple[Path, int] | None = None) -> None:
        self.path = directory / f"{secrets.token_hex(16)}.tmp"
        with converting(self.path):
            if taken is None:
                self.fd = open_locked(self.path, create=os.O_CREAT | os.O_EXCL)
            else:  # by a rename and not a link: no later writer that opens the old name can change this file
                taken[0].rename(self.path)
                self.fd = os.dup(taken[1])

    def publish(self, target: Path) -> bool:
        """Make it immutable, durable and visible as ``target``; False when ``target`` exists, and is kept.

        In both cases ``target`` is durable when this returns. Raises StoreError, NoSpace, StoreDenied; then nothing is
        certain. The directory above ``target.parent`` must exist.
        """
        with converting(target):
            os.fchmod(self.fd, IMMUTABLE)
            os.fsync(self.fd)
            make_directory(target.parent)
            try:
                os.link(self.path, target)  # not rename: it would replace a file that may be mounted
                created = True
            except FileExistsError:
                created = False
            self.path.unlink(missing_ok=True)
            fsync_directory(target.parent)
            fsync_directory(target.parent.parent)  # whoever made the directory may not have fsynced it yet
        return created

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.path.unlink(missing_ok=True)
        finally:
            os.close(self.fd)
