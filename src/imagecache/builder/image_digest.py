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
