"""Our own record in the first 4096 bytes of a layer image, beside the EROFS superblock.

EROFS does not use bytes 0..1023 and 1152..4095. Our record lies at 2048, so that a file states how long its tar is,
which digest the tar must have and at which positions the file may be used. It is written last, with the superblock. It
must not do I/O.

====== ===== ==========================================================================
offset bytes content (integers little-endian)
====== ===== ==========================================================================
0      8     magic ``IMGCACHE``
8      4     version, 1
12     4     flags: 1 another tree than elsewhere, by the bottom layer's rules, 2 has implied directories, 4 has
             whiteouts, 8 was realigned
16     8     length of the tar in bytes; it starts at 4096 of the file
24     8     names in the tree, the root not counted
32     32    SHA-256 of the tar (the diffID)
====== ===== ==========================================================================

While the filesystem behind a complete tar is written, the record is only ``IMGC-TAR`` and the tar's length: readers of
the partial layer can tell the tar from what follows it, and the file cannot be mistaken for a layer image.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar

from imagecache.digest import DiffID, Digest
from imagecache.errors import MalformedLayer

HEADER_OFFSET = 2048
DATA_START = 4096
"""Where the tar begins in a layer image: at a block of the host's filesystem, so that copies can share its blocks."""


class LayerFlags(enum.IntFlag):
    BOTTOM = 1
    """Assembled by the rules of the bottom layer (unpack-rules §11), which gave another tree than those above it."""
    IMPLIED = 2
    """A directory has no entry of its own; its attributes came from the layers below."""
    WHITEOUTS = 4
    """The tar has whiteouts, so the tree at the bottom of an image differs from the one at other positions."""
    REALIGNED = 8
    """A copy with 4096-byte blocks for old kernels. It has the content, not the tar."""


@dataclass(frozen=True, slots=True)
class LayerHeader:
    tar_size: int
    diff_id: DiffID
    entries: int
    flags: LayerFlags

    STRUCT: ClassVar[struct.Struct] = struct.Struct("<8sIIQQ32s")
    MAGIC: ClassVar[bytes] = b"IMGCACHE"
    VERSION: ClassVar[int] = 1

    def pack(self) -> bytes:
        if self.diff_id.algorithm != "sha256":
            raise MalformedLayer(f"the diffID is {self.diff_id.algorithm}; a layer image can hold sha256 only")
        return self.STRUCT.pack(
            self.MAGIC, self.VERSION, self.flags, self.tar_size, self.entries, bytes.fromhex(self.diff_id.hex)
        )

    @classmethod
    def unpack(cls, data: bytes) -> LayerHeader:
        """Parse ``STRUCT.size`` bytes found at ``HEADER_OFFSET``."""
        magic, version, flags, tar_size, entries, digest = cls.STRUCT.unpack(data)
        if magic != cls.MAGIC:
            raise MalformedLayer("not a layer image: no IMGCACHE header", hint="make one with: imagecache layer build")
        if version != cls.VERSION:
            raise MalformedLayer(f"the layer image has version {version}; this program reads version {cls.VERSION}")
        return cls(
            tar_size=tar_size,
            diff_id=DiffID(Digest("sha256:" + digest.hex())),
            entries=entries,
            flags=LayerFlags(flags),
        )


_UNFINISHED = struct.Struct("<8sQ")
_UNFINISHED_MAGIC = b"IMGC-TAR"


def unfinished(tar_size: int) -> bytes:
    """The first ``DATA_START`` bytes of a file whose tar is complete and whose filesystem is not."""
    return (bytes(HEADER_OFFSET) + _UNFINISHED.pack(_UNFINISHED_MAGIC, tar_size)).ljust(DATA_START, b"\0")


def tar_length(head: bytes) -> int | None:
    """Bytes of the tar in a file that begins with ``head``; None while that is not known. Raises MalformedLayer."""
    record = head[HEADER_OFFSET : HEADER_OFFSET + LayerHeader.STRUCT.size]
    if len(record) < LayerHeader.STRUCT.size or not any(record):
        return None
    magic, tar_size = _UNFINISHED.unpack_from(record)
    return int(tar_size) if magic == _UNFINISHED_MAGIC else LayerHeader.unpack(record).tar_size
