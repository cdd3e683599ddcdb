"""A file that another process still writes, for a reader that wants to seek: reads wait until their bytes are there.

Thread-safe. It works on a file descriptor alone.
"""

from __future__ import annotations

import io
import os
import threading


class GrowingFile:
    """``layer.parallel_gzip.Compressed``. ``size`` is that of the whole file."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size = size
        self._position = 0
        self._there = 0
        self._ended = False
        self._grown = threading.Condition()

    def grow(self, there: int) -> None:
        """So many bytes are in the file."""
        with self._grown:
            self._there = max(self._there, there)
            self._grown.notify_all()

    def end(self) -> None:
        """No more bytes come: who reads beyond them finds the end of the file."""
        with self._grown:
            self._ended = True
            self._grown.notify_all()

    def read(self, size: int = -1, /) -> bytes:
        left = self.size - self._position
        wanted = left if size < 0 else min(size, left)
        end = self._position + wanted
        with self._grown:
            self._grown.wait_for(lambda: self._ended or self._there >= end)
            wanted = max(0, min(end, self._there) - self._position)
        data = bytearray()
        while len(data) < wanted:
            piece = os.pread(self._fd, wanted - len(data), self._position + len(data))
            if not piece:
                break
            data += piece
        self._position += len(data)
        return bytes(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def write(self, _data: bytes, /) -> int:
        """Rapidgzip asks for the attribute, and never calls it."""
        raise io.UnsupportedOperation("write")

    def close(self) -> None:
        """The descriptor stays open: it is the caller's."""
