"""A layout as bytes: header block and metadata area of a layer image. Pure.

It decides nothing: every number comes from ``layout``. It must not do I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise

from imagecache.erofs import dirent, xattr
from imagecache.erofs.format import (
    CHUNK_ENTRY,
    FLAT_PLAIN,
    INODE,
    SLOT,
    SUPERBLOCK_OFFSET,
    Superblock,
    align,
    encode_format,
)
from imagecache.erofs.layer_header import DATA_START, HEADER_OFFSET, LayerHeader
from imagecache.erofs.layout import Directory, Layout

_CHUNK = 1 << 20
_RESERVED = bytes(16)


def head(layout: Layout, header: LayerHeader) -> bytes:
    """The first ``DATA_START`` bytes of the file: superblock and our record."""
    superblock = Superblock(
        block_bits=layout.block_bits,
        root_nid=layout.inodes[0].nid,
        inodes=len(layout.inodes),
        blocks=layout.total >> layout.block_bits,
        meta_block=layout.start >> layout.block_bits,
        uuid=uuid(header),
        chunked=layout.chunked,
    )
    block = bytearray(DATA_START)
    for offset, data in ((SUPERBLOCK_OFFSET, superblock.pack()), (HEADER_OFFSET, header.pack())):
        block[offset : offset + len(data)] = data
    return bytes(block)


def uuid(header: LayerHeader) -> bytes:
    """A version 8 UUID (RFC 9562) from diffID and flags.

    The flags are part of it because overlayfs compares the UUIDs of its lower filesystems (ovl_lower_uuid_ok), and one
    image may have the same layer twice: at the bottom and above, with different trees.
    """
    digest = bytearray(hashlib.sha256(b"imagecache layer image\0" + header.pack()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80  # version 8: custom
    digest[8] = digest[8] & 0x3F | 0x80  # variant of RFC 9562
    return bytes(digest)


def metadata(layout: Layout) -> Iterator[bytes]:
    """The metadata area from ``layout.start`` to ``layout.total``, in order, in pieces of about 1 MiB.

    Gathered, because a part is 64 bytes in most cases and would cost a system call each.
    """
    pending: list[bytes] = []
    size = 0
    for part in _parts(layout):
        pending.append(part)
        size += len(part)
        if size >= _CHUNK:
            yield b"".join(pending)
            pending.clear()
            size = 0
    yield b"".join(pending)


def _parts(layout: Layout) -> Iterator[bytes]:
    block = 1 << layout.block_bits
    yield bytes(layout.inodes[0].offset)
    yield from _inodes(layout)
    size = layout.inodes_size
    for directory in layout.directories:
        yield from _blocks(directory, block)
        size += align(directory.placed.size, block)
    for placed in layout.links:
        size += align(placed.size, block)
        yield placed.inode.target.ljust(align(placed.size, block), b"\0")
    yield bytes(layout.total - layout.start - size)


def _inodes(layout: Layout) -> Iterator[bytes]:
    """Every inode with what belongs to it, padded to where the next one starts."""
    ends = [placed.offset for placed in layout.inodes[1:]]
    ends.append(layout.inodes_size)
    plain = encode_format(FLAT_PLAIN)
    pack = INODE.pack  # once for each file of a layer, so that what can be spared is
    for placed, end in zip(layout.inodes, ends, strict=True):
        inode, xattrs = placed.inode, placed.xattrs
        data = pack(
            plain if placed.layout == FLAT_PLAIN else encode_format(placed.layout),
            xattr.count(len(xattrs)) if xattrs else 0,
            inode.mode,
            0,
            placed.size,
            placed.address,
            placed.number,
            inode.uid,
            inode.gid,
            inode.mtime,
            inode.mtime_nsec,
            placed.nlink,
            _RESERVED,
        )
        size = end - placed.offset
        if size == INODE.size:
            yield data
        elif placed.copy is None:
            yield (data + xattrs + placed.target).ljust(size, b"\0")
        else:
            chunks = placed.copy.chunks
            yield data + xattrs
            yield from chunks.table(placed.copy.address)
            yield bytes(size - INODE.size - len(xattrs) - CHUNK_ENTRY * chunks.entries)


def _blocks(directory: Directory, block: int) -> Iterator[bytes]:
    entries = [
        (name, placed.offset // SLOT, placed.file_type)
        for name, placed in zip(directory.names, directory.inodes, strict=True)
    ]
    for start, end in pairwise([*directory.starts, len(entries)]):
        yield dirent.pack(entries[start:end]).ljust(block, b"\0")
