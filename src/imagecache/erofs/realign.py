"""4K realignment: copy a layer image to 4096-byte blocks, for kernels that cannot mount 512-byte ones.

The content of every file moves to a multiple of 4096, in the same order, so the copy is one pass over the source; the
tree stays. A sparse file has all its blocks, with holes of the host's file for those without data: such kernels may
know no chunks, and the copy is sent nowhere. The result holds no tar, which its header states; the other fields of the
header describe the original. Same source, same bytes. It must not sync, and must not decide when it is needed: ``host``
probes the kernel.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

from imagecache.erofs.content import HOST_BLOCK
from imagecache.erofs.format import PAGE_BLOCK, align
from imagecache.erofs.layer_header import DATA_START, LayerFlags
from imagecache.erofs.layout import lay_out
from imagecache.erofs.metadata_area import head, metadata
from imagecache.erofs.reader import LayerImage
from imagecache.erofs.stored_chunks import StoredChunks
from imagecache.erofs.stored_inode import StoredInode
from imagecache.erofs.writer import write_at
from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.limits import DEFAULT, Limits
from imagecache.tree import Inode

_CHUNK = 1 << 20
_UNSUPPORTED = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
"""copy_file_range(2) between these files: other filesystems (until Linux 5.3, and from 5.19 of another type), a kernel
or a sandbox without the call, filesystems that refuse."""


class _Aligned:
    """Content of the source's files, each moved to a multiple of 4096."""

    def __init__(self, image: LayerImage, files: list[StoredInode], limits: Limits) -> None:
        self._check_sparse(image, [inode.chunks for inode in files if inode.chunks is not None], limits)
        self._positions: dict[Inode, int] = {}
        self._end = DATA_START
        source = 0
        for (start, end), inode in sorted(((_span(image, inode), inode) for inode in files), key=itemgetter(0)):
            if start < source:  # a hostile image could make the copy many times its size
                raise MalformedLayer(f"the content of inode {inode.nid} belongs to another file, too")
            source = end
            self._positions[inode] = self._end
            self._end = align(self._end + inode.size, HOST_BLOCK)

    @staticmethod
    def _check_sparse(image: LayerImage, sparse: list[StoredChunks], limits: Limits) -> None:
        """Bound the work: tables of a hostile image may be one, and holes are as large as a number says."""
        if sum(chunks.table_size for chunks in sparse) > image.size:
            raise MalformedLayer("the tables of sparse files are larger than the layer image")
        if sum(chunks.size for chunks in sparse) > limits.layer_uncompressed:
            raise LimitExceeded(f"sparse files have more than layer_uncompressed, {limits.layer_uncompressed}")

    def moves(self, image: LayerImage) -> Iterator[tuple[int, int, int]]:
        """(from, to, length), both rising."""
        for inode, position in self._positions.items():
            for extent in image.extents(inode):
                yield extent.position, position + extent.offset, extent.length

    def locate(self, inode: Inode) -> int:
        return self._positions[inode]

    def end(self) -> int:
        return self._end


def realign(source: Path, target_fd: int, *, limits: Limits = DEFAULT) -> int:
    """Write the realigned copy of ``source`` into the file ``target_fd``, replacing its content; returns its size.

    Raises what ``LayerImage`` raises, and OSError of the writing.
    """
    with LayerImage.open(source, limits=limits) as image:
        root = image.tree()
        content = _Aligned(image, _files(root), limits)
        layout = lay_out(root, PAGE_BLOCK, content, limits)
        os.ftruncate(target_fd, 0)  # drops old bytes, so that everything not written below is a hole of zeros
        os.ftruncate(target_fd, layout.total)
        for origin, target, length in content.moves(image):
            for offset, size in _data(image.fileno(), origin, length):
                _copy(image.fileno(), target_fd, (offset, target + offset - origin), size)
        position = layout.start
        for data in metadata(layout):
            write_at(target_fd, position, data)
            position += len(data)
        write_at(target_fd, 0, head(layout, replace(image.header, flags=image.header.flags | LayerFlags.REALIGNED)))
    return layout.total


def _files(root: StoredInode) -> list[StoredInode]:
    """Every regular file with content, once."""
    found: dict[Inode, StoredInode] = {}
    pending: list[Inode] = [root]
    while pending:
        for child in pending.pop().children.values():
            if child.is_dir:
                pending.append(child)
            elif isinstance(child, StoredInode) and child.is_file and child.size:
                found[child] = child
    return list(found.values())


def _span(image: LayerImage, inode: StoredInode) -> tuple[int, int]:
    """Where the content begins and ends in the file; (0, 0) for nothing but holes."""
    start = end = 0
    for extent in image.extents(inode):
        start = start or extent.position
        end = extent.position + extent.length
    return start, end


def _data(fd: int, start: int, length: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the data between the holes of the host file: sparse files of a realigned one have them."""
    end = start + length
    while start < end:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end of the file
                return
            raise
        if start >= end:
            return
        stop = min(os.lseek(fd, start, os.SEEK_HOLE), end)
        yield start, stop - start
        start = stop


def _copy(source_fd: int, target_fd: int, offsets: tuple[int, int], length: int) -> None:
    """Copy inside the kernel, or through memory where the kernel cannot copy between these files."""
    origin, target = offsets
    while length:
        try:
            copied = os.copy_file_range(source_fd, target_fd, length, origin, target)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            data = os.pread(source_fd, min(length, _CHUNK), origin)
            write_at(target_fd, target, data)
            copied = len(data)
        if copied == 0:
            raise MalformedLayer("the layer image became shorter while it was copied")
        origin, target, length = origin + copied, target + copied, length - copied
