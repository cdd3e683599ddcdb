"""Write a layer image past the page cache.

A node gets gigabytes that no container reads soon. Through the page cache they cost a page each (half of the node's
time for a layer on the machines we measured) and push out what its containers use. What is read again at once, the
filesystem behind the tar, goes through it all the same. It must not decide when something is durable.
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
"""Of offset, length and memory; a disk that needs more refuses, and is written to as usual."""


class DirectWriter:
    """Writes to the file ``path``, which is open as ``fd``."""

    def __init__(self, path: Path, fd: int, end: int = sys.maxsize) -> None:
        self.end = end
        """Bytes from here on take the usual way."""
        self._behind = WriteBehind(fd)
        self._direct = _open(path)

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of ``data`` at ``offset``. Raises OSError."""
        past = 0
        if self._direct is not None and offset % _ALIGNMENT == 0:
            past = max(min(len(data), self.end - offset), 0) // _ALIGNMENT * _ALIGNMENT
            if not _written(self._direct, offset, data[:past]):
                self.close()
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
        if error.errno != errno.EINVAL:
            raise
        return None


def _written(fd: int, offset: int, data: memoryview) -> bool:
    """False when this disk or filesystem does not do it so."""
    try:
        while data:
            count = os.pwrite(fd, data, offset)
            data, offset = data[count:], offset + count
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True
