"""Blocks of layer images that were compressed for nodes, kept so that each is compressed once for all of them.

Only a cache: nothing is synced, a block that a crash has cut is noticed by its checksum when it is read, and a
collection removes what it may. The oldest go when there are too many. Several processes may keep blocks in one store.
It must not compress, and must not fail a request: what cannot be kept is made again.
"""

from __future__ import annotations

import os
import secrets
import threading
import zlib
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path

from imagecache.errors import StoreError
from imagecache.oserrors import converting
from imagecache.store.durable_files import write_all
from imagecache.store.layer_name import LayerName
from imagecache.store.owner import hand_over, make_directory
from imagecache.store.paths import StorePaths, files_below
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_CHECKSUM = 4
"""Bytes behind the content: its CRC-32, big-endian."""
_LEAST_FREE = 0.1
"""Share of the disk that must be free for a block to be kept: images need the room more."""
_SWEEP = 16
"""Sweeps for each time that all that may be kept is written."""


def version(fd: int, number: int) -> str:
    """Of a block: of the file that it is in, too, so that a layer image that was made again has blocks of its own."""
    file = os.fstat(fd)
    return f"{file.st_ino:x}-{file.st_mtime_ns:x}-{number}"


class PackedBlocks:
    """Thread-safe. Blocks are named by their layer image and their ``version``."""

    def __init__(self, paths: StorePaths, most: int) -> None:
        """``most``: bytes that are kept; 0: none are."""
        self._paths = paths
        self._most = most
        self._written = 0
        """Since the last sweep."""
        self._lock = threading.Lock()

    def trim(self) -> None:
        """Remove what is too much, as after a restart with a smaller bound. Raises nothing: the store serves anyway."""
        try:
            with converting(self._paths.packed):
                if self._paths.packed.is_dir():
                    self._sweep()
        except StoreError as error:
            _log.warning("compressed blocks stay", reason=error.reason, problem=str(error))

    def open(self, name: LayerName, version: str) -> tuple[int, int] | None:
        """A descriptor to ``read`` from, which the caller closes, and the size of the content; None: not kept."""
        try:
            fd = os.open(self._paths.packed_block(name, version), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        size = os.fstat(fd).st_size - _CHECKSUM
        if size > 0:
            return fd, size
        os.close(fd)
        self._remove(name, version)
        return None

    def read(self, name: LayerName, version: str, fd: int, buffer: memoryview) -> Iterator[memoryview]:
        """The content in pieces, each valid until the next one is asked for.

        A block with another checksum is removed at the end; whoever got it finds out, and asks for another form.
        """
        size, at, checksum = os.fstat(fd).st_size - _CHECKSUM, 0, 0
        with converting("a compressed block"):
            while at < size and (count := os.preadv(fd, [buffer[: size - at]], at)):
                checksum = zlib.crc32(buffer[:count], checksum)
                yield buffer[:count]
                at += count
            if os.pread(fd, _CHECKSUM, size) != checksum.to_bytes(_CHECKSUM, "big"):
                self._remove(name, version)

    def keep(self, name: LayerName, version: str, content: bytes) -> bool:
        """Whether it is kept. Raises nothing: a disk that is full, or read-only, costs the next node's time alone."""
        try:
            with converting(self._paths.packed):
                if self._most > 0 and _has_room(self._paths):
                    self._write(self._paths.packed_block(name, version), content)
                    self._count(len(content))
                    return True
        except StoreError as error:
            _log.debug("a compressed block is not kept", reason=error.reason, problem=str(error))
        return False

    def _write(self, path: Path, content: bytes) -> None:
        make_directory(self._paths.packed)
        make_directory(path.parent)
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            hand_over(fd, path.parent)
            write_all(fd, content + zlib.crc32(content).to_bytes(_CHECKSUM, "big"), 0)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def _remove(self, name: LayerName, version: str) -> None:
        with suppress(OSError):
            self._paths.packed_block(name, version).unlink()

    def _count(self, size: int) -> None:
        with self._lock:
            self._written += size
            if self._written < self._most // _SWEEP:
                return
            self._written = 0
        self._sweep()

    def _sweep(self) -> None:
        """Remove the oldest, as many as there are too many."""
        found: list[tuple[float, int, Path]] = []
        for path in files_below(self._paths.packed):
            with suppress(FileNotFoundError):
                status = path.lstat()
                found.append((status.st_mtime, status.st_size, path))
        left = sum(size for _time, size, _path in found)
        left += self._most // _SWEEP  # that comes until the next sweep
        for _time, size, path in sorted(found):
            if left <= self._most:
                return
            path.unlink(missing_ok=True)
            left -= size


def unneeded(paths: StorePaths, needed: Container[LayerName]) -> Iterator[Path]:
    """The directories of layer images that are not ``needed``; all of them when images need their room."""
    with converting(paths.packed):
        has_room = _has_room(paths)
        found = list(paths.packed_layers())
    yield from (path for path, name in found if not has_room or name not in needed)


def remove_all(paths: StorePaths) -> None:
    """For images that have no room otherwise. Raises StoreError."""
    with converting(paths.packed):
        for path in list(files_below(paths.packed)):
            path.unlink(missing_ok=True)


def _has_room(paths: StorePaths) -> bool:
    disk = os.statvfs(paths.root)
    return disk.f_bavail >= disk.f_blocks * _LEAST_FREE
