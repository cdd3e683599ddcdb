"""Bounded reads from a file that claims to be a layer image.

Metadata is read in windows that are cached, since its pieces are small and lie together; content is not cached. Every
read is checked against the size of the file, and a file that shrinks meanwhile is malformed. It must not interpret
bytes.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator

from imagecache.errors import MalformedLayer, StoreError

_WINDOW = 1 << 16
"""Some two thousand names, or a thousand inodes, in one system call."""
_CACHED = 32
"""Windows: 2 MiB at most, whatever the file makes us read."""
_CHUNK = 1 << 20


class ImageFile:
    """Reads from a file descriptor, which the caller closes. Not for several threads at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size
        self._windows: OrderedDict[int, bytes] = OrderedDict()

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes. Raises MalformedLayer when the file does not have them all, StoreError for EIO."""
        self._check(offset, length)
        base = offset & -_WINDOW
        if offset + length > base + _WINDOW:
            return self._pread(offset, length)
        window = self._windows.get(base)
        if window is None:
            window = self._load(base)
        return window[offset - base : offset - base + length]

    def stream(self, offset: int, length: int) -> Iterator[bytes]:
        """The bytes of a range in pieces of at most 1 MiB."""
        self._check(offset, length)
        for position in range(offset, offset + length, _CHUNK):
            yield self._pread(position, min(_CHUNK, offset + length - position))

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise MalformedLayer(
                f"the layer image points to bytes {offset} to {offset + length} but has only {self.size}"
            )

    def _load(self, base: int) -> bytes:
        window = self._windows[base] = self._pread(base, min(_WINDOW, self.size - base))
        if len(self._windows) > _CACHED:  # the oldest first: a walk rarely comes back to it
            self._windows.popitem(last=False)
        return window

    def _pread(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._fd, length, offset)
        except OSError as error:
            raise StoreError(f"cannot read a layer image at {offset}: {error.strerror}") from error
        if len(data) != length:
            raise MalformedLayer(f"the layer image ended at {offset + len(data)} while it was read")
        return data
