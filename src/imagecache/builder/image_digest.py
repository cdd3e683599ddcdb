"""The digest of a layer image: SHA-256 of its bytes from the tar on, then of the head that precedes the tar.

In this order the hash of the tar, which gives the diffID, simply goes on behind the tar, and no byte is hashed twice,
though the head is known only when the tar is. Head and tar have known sizes, so two files of one size cannot have the
same bytes in this order and differ. It works on file descriptors alone.
"""

from __future__ import annotations

import hashlib
import os
from typing import Protocol

from imagecache.digest import Digest
from imagecache.erofs.layer_header import DATA_START
from imagecache.errors import StoreError

_PIECE = 4 << 20


class Hash(Protocol):
    """Of ``hashlib``."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def copy(self) -> Hash: ...

    def hexdigest(self) -> str: ...


def image_digest(fd: int, size: int) -> Digest:
    """Of a layer image of ``size`` bytes. Raises StoreError when it is shorter."""
    return continued(hashlib.sha256(), fd, DATA_START, size)


def continued(tar: Hash, fd: int, start: int, size: int) -> Digest:
    """The same, from the hash of what lies between the head and ``start``. ``tar`` stays as it is."""
    digest = tar.copy()
    _feed(digest, fd, start, size)
    _feed(digest, fd, 0, DATA_START)
    return Digest("sha256:" + digest.hexdigest())


def _feed(digest: Hash, fd: int, start: int, end: int) -> None:
    buffer = bytearray(min(_PIECE, max(0, end - start)))
    view = memoryview(buffer)
    while start < end:
        count = os.preadv(fd, [view[: min(len(buffer), end - start)]], start)
        if count == 0:
            raise StoreError("a layer image is shorter than what was written", hint="check the disk")
        digest.update(view[:count])
        start += count


class ArrivingDigest:
    """Of a tar, and of the layer image around it, while the file's bytes arrive in order from its first one.

    ``start`` is where bytes stand in the file, ``tar_end`` where its tar ends.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._tar: Hash = hashlib.sha256()
        self._image: Hash | None = None

    def tar(self, start: int, data: memoryview, tar_end: int) -> None:
        """Those of ``data`` that are of the tar."""
        self._tar.update(data[max(DATA_START - start, 0) : max(tar_end - start, 0)])

    def all(self, start: int, data: memoryview, tar_end: int) -> None:
        self._head += data[: max(DATA_START - start, 0)]
        self.tar(start, data, tar_end)
        rest = data[max(tar_end - start, 0) :]
        if rest:
            self._image = self._image or self._tar.copy()
            self._image.update(rest)

    @property
    def tar_hex(self) -> str:
        return self._tar.hexdigest()

    @property
    def image_hex(self) -> str:
        """After every byte was given to ``all``."""
        image = (self._image or self._tar).copy()
        image.update(bytes(self._head))
        return image.hexdigest()
