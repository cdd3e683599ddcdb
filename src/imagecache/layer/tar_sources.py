"""Ways to read an uncompressed tar: from a stream of chunks, or from a file at any position.

``ChunkSource`` serves a conversion (the chunks come from the decompressor) and the proof of a layer image that arrives,
where ``BoundedSource`` ends it with the tar. ``FileSource`` serves ``verify`` (the tar lies inside a layer image, and
only its headers are read). They must not know what a tar is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import BinaryIO

from imagecache.layer.tar_reader import TarSource

_SMALLEST_WINDOW = 4096
"""A page: less costs as much to read."""
_LARGEST_WINDOW = 256 * 1024


class ChunkSource:
    """A ``TarSource`` over chunks of any size, which are taken one at a time and copied only where read.

    A chunk is no longer used once the next one is asked for, so its memory may be reused by then.
    """

    def __init__(self, chunks: Iterable[bytes | memoryview]) -> None:
        self._chunks = iter(chunks)
        self._chunk: bytes | memoryview = b""
        self._length = 0
        """Of the chunk."""
        self._at = 0
        self._base = 0
        """Position of the chunk's first byte."""

    def read(self, size: int) -> bytes:
        start = self._at
        end = start + size
        if end <= self._length:
            self._at = end
            return bytes(self._chunk[start:end])
        pieces = [bytes(self._chunk[start:])]
        missing = end - self._length
        while missing > 0 and self._advance():
            pieces.append(bytes(self._chunk[:missing]))
            missing -= len(pieces[-1])
            self._at = len(pieces[-1])
        return b"".join(pieces)

    def skip(self, size: int) -> int:
        end = self._at + size
        missing = end - self._length
        while missing > 0:
            if not self._advance():
                return size - missing
            end = missing
            missing -= self._length
        self._at = end
        return size

    def tell(self) -> int:
        return self._base + self._at

    def drain(self) -> int:
        """Take all remaining chunks, and return how many bytes were not read."""
        left = self._length - self._at
        while self._advance():
            left += self._length
        return left

    def _advance(self) -> bool:
        """Move to the next chunk that is not empty; False at the end of the stream."""
        self._base += self._length
        self._at = 0
        self._chunk = next((chunk for chunk in self._chunks if chunk), b"")
        self._length = len(self._chunk)
        return self._length > 0


class BoundedSource:
    """A ``TarSource``: the next ``length`` bytes of another one."""

    def __init__(self, source: TarSource, length: int) -> None:
        self._source = source
        self._length = length
        self._position = 0

    def read(self, size: int) -> bytes:
        data = self._source.read(min(size, self._length - self._position))
        self._position += len(data)
        return data

    def skip(self, size: int) -> int:
        skipped = self._source.skip(min(size, self._length - self._position))
        self._position += skipped
        return skipped

    def tell(self) -> int:
        return self._position


class FileSource:
    """A ``TarSource`` over ``length`` bytes of an open file from ``start`` on. The file's own position is not used.

    The read window grows while reads are adjacent, so that small files do not cost a system call each, and shrinks
    after a jump, so that the content of large files is not read.
    """

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._descriptor = file.fileno()
        self._start = start
        self._length = length
        self._position = 0
        self._window = b""
        self._window_start = 0
        self._window_size = _SMALLEST_WINDOW

    def read(self, size: int) -> bytes:
        size = min(size, self._length - self._position)
        offset = self._position - self._window_start
        if offset + size > len(self._window):
            self._fill(size)
            offset = 0
        data = self._window[offset : offset + size]
        self._position += len(data)
        return data

    def skip(self, size: int) -> int:
        size = min(size, self._length - self._position)
        self._position += size
        return size

    def tell(self) -> int:
        return self._position

    def _fill(self, size: int) -> None:
        """Fill the window with at least ``size`` bytes from the position on (fewer only at the file's end)."""
        gap = self._position - self._window_start - len(self._window)
        grown = self._window_size * 2 if gap < _SMALLEST_WINDOW else _SMALLEST_WINDOW
        self._window_size = min(grown, _LARGEST_WINDOW)
        wanted = min(max(size, self._window_size), self._length - self._position)
        pieces: list[bytes] = []
        while wanted > 0:
            piece = os.pread(self._descriptor, wanted, self._start + self._position + sum(map(len, pieces)))
            if not piece:  # the file became shorter; the tar reader reports it
                break
            pieces.append(piece)
            wanted -= len(piece)
        self._window = b"".join(pieces)
        self._window_start = self._position
