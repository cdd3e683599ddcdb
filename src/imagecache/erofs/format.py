"""EROFS on disk: the structs and constants that a layer image uses, and nothing else of the format.

Without sparse files a layer image has feature flags zero, so this is the oldest form of EROFS (Linux 5.4), except for
the block size of 512 bytes (Linux 6.4). Sparse files are chunk-based (Linux 5.15). Source: Linux
``fs/erofs/erofs_fs.h``. Byte tables: ``docs/internals/erofs-layout.md``. Pure: it must not do I/O and must not decide
where something lies.
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
"""log2 of the block size after 4K realignment, for kernels that cannot mount smaller blocks."""
SLOT: Final = 32
"""A nid counts slots of this size from the start of the metadata area."""
MAX_BLOCKS: Final = 2**32 - 1
"""Block addresses have 32 bits, and the last one means "no block" to newer kernels."""

FLAT_PLAIN: Final = 0
"""Content lies in consecutive blocks from a block address on."""
FLAT_INLINE: Final = 2
"""Content lies behind the inode and its xattrs, in the same block."""
CHUNK_BASED: Final = 4
"""A table behind the inode and its xattrs has the block address of each chunk of the content."""
_EXTENDED: Final = 1
_LAYOUT_SHIFT: Final = 1

CHUNKED_FILE: Final = 4
"""feature_incompat of a filesystem with a chunk-based inode."""
MAX_CHUNK_BITS: Final = 31
"""i_u of a chunk-based inode is log2 of the blocks of a chunk, in five bits. Bit 5, which we never set, would make the
entries of its table 8 bytes long."""
CHUNK_ENTRY: Final = 4
"""Bytes of an entry: a block address."""
NO_BLOCK: Final = 2**32 - 1
"""The entry of a chunk that is a hole."""

# struct erofs_super_block: magic, checksum, feature_compat, blkszbits, sb_extslots, root_nid, inos, build_time,
# build_time_nsec, blocks, meta_blkaddr, xattr_blkaddr, uuid, volume_name, feature_incompat, the rest.
SUPERBLOCK: Final = struct.Struct("<IIIBBHQQIIII16s16sI44s")
# struct erofs_inode_extended: i_format, i_xattr_icount, i_mode, i_nb, i_size, i_u, i_ino, i_uid, i_gid, i_mtime,
# i_mtime_nsec, i_nlink, reserved. The compact form has 16-bit owners and no mtime of its own.
INODE: Final = struct.Struct("<HHHHQIIIIQII16s")
# struct erofs_dirent: nid, nameoff, file_type, reserved. Packed: 12 bytes.
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
    """``new_encode_dev`` of Linux: 12 bits of major, 20 of minor. Raises LimitExceeded for more."""
    if not (0 <= major <= MAX_MAJOR and 0 <= minor <= MAX_MINOR):
        raise LimitExceeded(f"device number {major}:{minor} passes {MAX_MAJOR}:{MAX_MINOR}, what Linux can store")
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def decode_device(value: int) -> tuple[int, int]:
    """``new_decode_dev`` of Linux: (major, minor)."""
    return value >> 8 & MAX_MAJOR, value & 0xFF | value >> 12 & 0xFFF00


def encode_format(layout: int) -> int:
    """``i_format`` of an extended inode."""
    return _EXTENDED | layout << _LAYOUT_SHIFT


def decode_format(value: int) -> int:
    """The data layout in an ``i_format``. Raises MalformedLayer for every format that layer images do not have."""
    layout = value >> _LAYOUT_SHIFT
    if not value & _EXTENDED or layout not in {FLAT_PLAIN, FLAT_INLINE, CHUNK_BASED}:
        raise MalformedLayer(f"inode format {value:#x} does not occur in layer images")
    return layout


@dataclass(frozen=True, slots=True)
class Superblock:
    """The fields that differ between layer images; the others are zero.

    So is the time of the build: the same tar must give the same bytes.
    """

    block_bits: int
    root_nid: int
    inodes: int
    blocks: int
    """Blocks of the whole file."""
    meta_block: int
    """Block address of the metadata area, from which nids count."""
    uuid: bytes
    chunked: bool = False
    """Whether an inode is chunk-based: an older kernel then refuses the whole file."""

    def pack(self) -> bytes:
        """128 bytes for ``SUPERBLOCK_OFFSET``."""
        return SUPERBLOCK.pack(
            *(MAGIC, 0, 0, self.block_bits, 0, self.root_nid, self.inodes, 0, 0, self.blocks, self.meta_block, 0),
            *(self.uuid, bytes(16), CHUNKED_FILE if self.chunked else 0, bytes(44)),
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
            chunked=fields[14] == CHUNKED_FILE,
        )
        if fields[0] != MAGIC:
            raise MalformedLayer(
                "not a layer image: no EROFS superblock", hint="its writing may have been interrupted; remove it"
            )
        if result.block_bits not in {SMALL_BLOCK, PAGE_BLOCK}:
            raise MalformedLayer(f"EROFS blocks of 2**{result.block_bits} bytes do not occur in layer images")
        # The rest must be zero: an unknown feature could make the kernel read the file in another way than we do.
        if result.pack() != data:
            raise MalformedLayer("the EROFS superblock has features that do not occur in layer images")
        return result
