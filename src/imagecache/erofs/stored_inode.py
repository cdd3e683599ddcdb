"""One inode of a layer image, decoded and checked.

Independent of the writer, so that it finds the writer's mistakes too. It reads only through ``ImageFile``.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import NamedTuple

from imagecache.erofs import stored_chunks, xattr
from imagecache.erofs.format import (
    CHUNK_BASED,
    FILE_TYPES,
    FLAT_INLINE,
    INODE,
    SLOT,
    decode_device,
    decode_format,
)
from imagecache.erofs.image_file import ImageFile
from imagecache.erofs.layer_header import DATA_START
from imagecache.erofs.stored_chunks import StoredChunks
from imagecache.errors import MalformedLayer
from imagecache.limits import DEFAULT, Limits
from imagecache.tree import Inode

_MAX_TIME = 2**63 - 1


@dataclass(slots=True, eq=False)
class StoredInode(Inode):
    """An inode and where it lies in a layer image.

    ``data`` of a regular file counts from ``DATA_START``, as in the tree it came from; a sparse one has ``chunks``
    instead. ``children`` stays empty unless the whole tree is read.
    """

    nid: int = 0
    """Its number, which the kernel shows as st_ino. Hard links have the same one."""
    position: int = 0
    """Where the content begins in the file: regular files that are not sparse, directories and symlinks."""
    chunks: StoredChunks | None = None
    """Of a sparse file."""


class Area(NamedTuple):
    """Where the metadata area lies, from the superblock."""

    start: int
    """Position of nid 0."""
    block_bits: int
    chunked: bool
    """Whether there may be chunk-based inodes."""


class _Raw(NamedTuple):
    """The fields of an inode on disk."""

    layout: int
    xattr_count: int
    mode: int
    nb: int
    size: int
    address: int
    number: int
    uid: int
    gid: int
    mtime: int
    mtime_nsec: int
    nlink: int
    reserved: bytes


def read_inode(file: ImageFile, area: Area, nid: int, limits: Limits = DEFAULT) -> StoredInode:
    """Decode one inode. Raises MalformedLayer, LimitExceeded."""
    offset = area.start + nid * SLOT
    raw = _Raw(*INODE.unpack(file.read(offset, INODE.size)))
    raw = raw._replace(layout=decode_format(raw.layout))
    _check(raw, area, nid)
    inode = StoredInode(
        mode=raw.mode,
        uid=raw.uid,
        gid=raw.gid,
        mtime=raw.mtime,
        mtime_nsec=raw.mtime_nsec,
        nlink=raw.nlink,
        nid=nid,
        children={},
    )
    behind = offset + INODE.size  # the xattrs, then an inline target
    if raw.xattr_count:
        body = file.read(behind, xattr.size(raw.xattr_count))
        inode.xattrs = xattr.decode(body)
        behind += len(body)
    if raw.layout == CHUNK_BASED:
        inode.size = raw.size
        inode.chunks = StoredChunks(nid, raw.size, area.block_bits, area.block_bits + raw.address, behind)
        stored_chunks.check(inode.chunks, file, limits)
    else:
        _fill(inode, raw, file, area, behind)
    return inode


def _check(raw: _Raw, area: Area, nid: int) -> None:
    kind = stat.S_IFMT(raw.mode)
    if kind not in FILE_TYPES:
        raise MalformedLayer(f"inode {nid} is of no file type: mode {raw.mode:o}")
    if raw.nb or any(raw.reserved):
        raise MalformedLayer(f"inode {nid} uses fields that do not occur in layer images")
    if raw.mtime > _MAX_TIME or raw.mtime_nsec >= 10**9:
        raise MalformedLayer(f"inode {nid} has an impossible time")
    # Directories and files may be inline in EROFS; ours never are, and one rule less is one check less.
    if raw.layout == FLAT_INLINE and kind != stat.S_IFLNK:
        raise MalformedLayer(f"inode {nid} has inline content but is not a symlink")
    if raw.layout == CHUNK_BASED and not (kind == stat.S_IFREG and area.chunked):
        raise MalformedLayer(f"inode {nid} has chunks but is not a file, or the superblock does not say so")


def _fill(inode: StoredInode, raw: _Raw, file: ImageFile, area: Area, behind: int) -> None:
    """Decode and check the fields that depend on the file type."""
    if inode.is_device:
        inode.major, inode.minor = decode_device(raw.address)
    elif inode.is_symlink:
        inode.size = raw.size
        inode.position = behind if raw.layout == FLAT_INLINE else raw.address << area.block_bits
        inode.target = _target(inode, raw, file, area)
    elif inode.is_file and raw.size:
        inode.size = raw.size
        inode.position = raw.address << area.block_bits
        inode.data = inode.position - DATA_START
        if inode.data < 0 or inode.position + inode.size > file.size:
            raise MalformedLayer(f"the content of inode {inode.nid} is not inside the layer image")
    elif inode.is_dir:
        inode.position = raw.address << area.block_bits
        if raw.size == 0 or inode.position + raw.size > file.size:
            raise MalformedLayer(f"directory {inode.nid} is empty or not inside the layer image")
        inode.size = raw.size


def _target(inode: StoredInode, raw: _Raw, file: ImageFile, area: Area) -> bytes:
    block = 1 << area.block_bits
    if not 1 <= raw.size <= DEFAULT.link_target:
        raise MalformedLayer(f"symlink {inode.nid} has a target of {raw.size} bytes")
    # The kernel refuses an inline target that crosses a block (fs/erofs/inode.c, erofs_fill_symlink).
    last = inode.position + raw.size - 1
    if raw.layout == FLAT_INLINE and inode.nid * SLOT // block != (last - area.start) // block:
        raise MalformedLayer(f"the inline target of symlink {inode.nid} crosses a block")
    target = file.read(inode.position, raw.size)
    if b"\0" in target:
        raise MalformedLayer(f"the target of symlink {inode.nid} has a zero byte")
    return target
