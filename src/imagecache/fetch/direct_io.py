"""Writes a layer image with direct I/O, past the page cache.

A node fetches gigabytes that no container reads soon. In the page cache they take half of the node's time for a layer
(on the machines we measured), and evict what its containers use. Only the filesystem behind the tar is written through
the page cache, as it is read at once. It must not decide when something is durable.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from imagecache.builder.writeback import WriteBehind

_ALIGNMENT = 4096
"""Of offset, length and memory (open(2), O_DIRECT). A disk that needs more refuses, and is written to as usual."""


class DirectWriter:
    """Writes to the file ``path``, which is open as ``fd``."""

    def __init__(self, path: Path, fd: int, end: int = sys.maxsize) -> None:
        self.end = end
        """Bytes from here on are written through the page cache."""
        self._behind = WriteBehind(fd)
        self._direct = _open(path)

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of ``data`` at ``offset``. Raises OSError."""
        past = 0
        if self._direct is not None and offset % _ALIGNMENT == 0:
            past = max(min(len(data), self.end - offset), 0) // _ALIGNMENT * _ALIGNMENT
            if not _written(self._direct, offset, data[:past]):
                self.close()  # the next piece would be refused too
                past = 0
        if past < len(data):
            self._behind.write(offset + past, data[past:])

    def close(self) -> None:
        direct, self._direct = self._direct, None
        if direct is not None:
            os.close(direct)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.EINVAL:  # tmpfs, for one, had no O_DIRECT before Linux 6.6
            raise
        return None


def _written(fd: int, offset: int, data: memoryview) -> bool:
    """False when this disk or filesystem refuses direct I/O for these bytes."""
    try:
        while data:
            count = os.pwrite(fd, data, offset)
            data, offset = data[count:], offset + count
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True
