"""A layout as bytes: header block and metadata area of a layer image. Pure.

It decides nothing: every number comes from ``layout``. It must not do I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise

from imagecache.erofs import dirent, xattr
from imagecache.erofs.format import INODE, SLOT, SUPERBLOCK_OFFSET, Superblock, align, encode_format
from imagecache.erofs.layer_header import DATA_START, HEADER_OFFSET, LayerHeader
from imagecache.erofs.layout import Directory, Layout

_CHUNK = 1 << 20
_RESERVED = bytes(16)


def head(layout: Layout, header: LayerHeader) -> bytes:
    """The first ``DATA_START`` bytes of the file: superblock and our record."""
    superblock = Superblock(
        block_bits=layout.block_bits,
        root_nid=layout.places[0].nid,
        inodes=len(layout.places),
        blocks=layout.total >> layout.block_bits,
        meta_block=layout.start >> layout.block_bits,
        uuid=uuid(header),
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
    yield bytes(layout.places[0].offset)
    yield from _inodes(layout)
    size = layout.inodes_size
    for directory in layout.directories:
        yield from _blocks(directory, block)
        size += align(directory.place.size, block)
    for place in layout.links:
        size += align(place.size, block)
        yield place.inode.target.ljust(align(place.size, block), b"\0")
    yield bytes(layout.total - layout.start - size)


def _inodes(layout: Layout) -> Iterator[bytes]:
    """Every inode with what belongs to it, padded to where the next one starts."""
    ends = [place.offset for place in layout.places[1:]]
    ends.append(layout.inodes_size)
    for place, end in zip(layout.places, ends, strict=True):
        inode = place.inode
        fixed = INODE.pack(
            *(encode_format(place.layout), xattr.count(len(place.xattrs)), inode.mode, 0, place.size),
            *(place.address, place.number, inode.uid, inode.gid),
            *(inode.mtime, inode.mtime_nsec, place.nlink, _RESERVED),
        )
        yield (fixed + place.xattrs + place.target).ljust(end - place.offset, b"\0")


def _blocks(directory: Directory, block: int) -> Iterator[bytes]:
    bounds = [*directory.starts, len(directory.entries)]
    for start, end in pairwise(bounds):
        entries = [
            dirent.Entry(name, place.offset // SLOT, place.file_type) for name, place in directory.entries[start:end]
        ]
        yield dirent.pack(entries).ljust(block, b"\0")
