"""EROFS on disk: the structs and constants that a layer image uses, and nothing else of the format.

Source: Linux ``fs/erofs/erofs_fs.h``. A layer image has feature flags zero, so this is the oldest form of EROFS (Linux
5.4), but for the block size of 512 bytes. Byte tables: ``docs/internals/erofs-layout.md``. Pure: it must not do I/O and
must not decide where something lies.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from typing import Final

from imagecache.errors import LimitExceeded, MalformedLayer

SUPERBLOCK_OFFSET: Final = 1024
MAGIC: Final = 0xE0F5E1E2
SMALL_BLOCK: Final = 9
"""log2 of the block size of a layer image: tar content is 512-aligned."""
PAGE_BLOCK: Final = 12
"""log2 of the block size of a re-laid one, for kernels that know no other."""
SLOT: Final = 32
"""A nid counts slots of this size from the start of the metadata area."""
MAX_BLOCKS: Final = 2**32 - 1
"""Block addresses have 32 bits, and the last one means "no block" to newer kernels."""

FLAT_PLAIN: Final = 0
"""Content lies in consecutive blocks from a block address on."""
FLAT_INLINE: Final = 2
"""Content lies behind the inode and its xattrs, in the same block."""
_EXTENDED: Final = 1
_LAYOUT_SHIFT: Final = 1

SUPERBLOCK: Final = struct.Struct("<IIIBBHQQIIII16s16sI44s")
INODE: Final = struct.Struct("<HHHHQIIIIQII16s")
DIRENT: Final = struct.Struct("<QHBB")

FILE_TYPES: Final = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
"""File type bits of st_mode to the type in a directory entry (``fs_types.h``)."""

MAX_MAJOR: Final = 0xFFF
MAX_MINOR: Final = 0xFFFFF


def align(offset: int, unit: int) -> int:
    """``offset`` rounded up to a multiple of ``unit``, a power of two."""
    return (offset + unit - 1) & -unit


def encode_device(major: int, minor: int) -> int:
    """Linux ``new_encode_dev``: 12 bits of major, 20 of minor. Raises LimitExceeded for more."""
    if not (0 <= major <= MAX_MAJOR and 0 <= minor <= MAX_MINOR):
        raise LimitExceeded(f"device number {major}:{minor} passes {MAX_MAJOR}:{MAX_MINOR}, what Linux can store")
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def decode_device(value: int) -> tuple[int, int]:
    """Linux ``new_decode_dev``: (major, minor)."""
    return value >> 8 & MAX_MAJOR, value & 0xFF | value >> 12 & 0xFFF00


def encode_format(layout: int) -> int:
    """``i_format`` of an extended inode."""
    return _EXTENDED | layout << _LAYOUT_SHIFT


def decode_format(value: int) -> int:
    """The data layout in an ``i_format``; raises MalformedLayer for anything that a layer image does not have."""
    layout = value >> _LAYOUT_SHIFT
    if not value & _EXTENDED or layout not in {FLAT_PLAIN, FLAT_INLINE}:
        raise MalformedLayer(f"inode format {value:#x} does not occur in layer images")
    return layout


@dataclass(frozen=True, slots=True)
class Superblock:
    """The fields that differ between layer images; the others are zero."""

    block_bits: int
    root_nid: int
    inodes: int
    blocks: int
    """Blocks of the whole file."""
    meta_block: int
    """Block address of the metadata area, from which nids count."""
    uuid: bytes

    def pack(self) -> bytes:
        """128 bytes for ``SUPERBLOCK_OFFSET``."""
        return SUPERBLOCK.pack(
            *(MAGIC, 0, 0, self.block_bits, 0, self.root_nid, self.inodes, 0, 0, self.blocks, self.meta_block, 0),
            *(self.uuid, bytes(16), 0, bytes(44)),
        )

    @classmethod
    def unpack(cls, data: bytes) -> Superblock:
        """Parse 128 bytes; raises MalformedLayer unless they are what ``pack`` writes."""
        fields = SUPERBLOCK.unpack(data)
        result = cls(
            block_bits=fields[3],
            root_nid=fields[5],
            inodes=fields[6],
            blocks=fields[9],
            meta_block=fields[10],
            uuid=fields[12],
        )
        if fields[0] != MAGIC:
            raise MalformedLayer("not a layer image: no EROFS superblock", hint="was its writing interrupted?")
        if result.block_bits not in {SMALL_BLOCK, PAGE_BLOCK}:
            raise MalformedLayer(f"EROFS blocks of 2**{result.block_bits} bytes do not occur in layer images")
        if result.pack() != data:
            raise MalformedLayer("the EROFS superblock has features that do not occur in layer images")
        return result
