"""Where the content of regular files lies in a layer image: in the tar, or expanded behind it when sparse. Pure.

Expanded copies start at multiples of 4096 behind the padded tar, in the order of the inodes, so that their holes can
be holes of the host file. Every offset that the tree has into the tar is checked here. It must not do I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from imagecache.erofs.format import align
from imagecache.erofs.layer_header import DATA_START
from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.limits import Limits
from imagecache.tree import Inode, Segment

HOST_BLOCK = 4096
"""Block size of the filesystems that hold layer images; a page. A hole is a whole block."""
TAR_BLOCK = 512


class Content(Protocol):
    """Decides where content lies. ``layout`` calls ``locate`` once for each regular file that is not empty."""

    def locate(self, inode: Inode) -> int:
        """Position of the content in the file, a multiple of the block size."""

    def end(self) -> int:
        """Position behind all content, once every file has been located."""


class TarContent:
    """Content in the tar that starts at ``DATA_START``."""

    def __init__(self, tar_size: int, limits: Limits) -> None:
        if not 0 <= tar_size <= limits.layer_uncompressed:
            raise LimitExceeded(f"tar of {tar_size} bytes, layer_uncompressed is {limits.layer_uncompressed}")
        self.expanded: list[tuple[int, Inode]] = []
        """Position of the copy, and the sparse file."""
        self._tar_size = tar_size
        self._limits = limits
        self._start = self._end = align(DATA_START + tar_size, HOST_BLOCK)

    def locate(self, inode: Inode) -> int:
        if inode.sparse is not None:
            return self._expand(inode, inode.sparse)
        # The block address of an inode counts 512-byte blocks, so content off that grid could not be named.
        if inode.data % TAR_BLOCK or not 0 <= inode.data <= self._tar_size - inode.size:
            raise MalformedLayer(f"a file of {inode.size} bytes at {inode.data} is not inside the tar")
        return DATA_START + inode.data

    def end(self) -> int:
        return self._end

    def _expand(self, inode: Inode, segments: tuple[Segment, ...]) -> int:
        check_segments(segments, inode.size, self._tar_size, self._limits)
        position = self._end
        self._end = align(position + inode.size, HOST_BLOCK)
        if self._end - self._start > self._limits.layer_uncompressed:
            raise LimitExceeded(
                f"sparse files expand to more than layer_uncompressed, {self._limits.layer_uncompressed}"
            )
        self.expanded.append((position, inode))
        return position


def check_segments(segments: Iterable[Segment], size: int, tar_size: int, limits: Limits) -> None:
    """Raise MalformedLayer unless the segments are in order, apart, inside the file and inside the tar."""
    last = 0
    for number, segment in enumerate(segments):
        if number >= limits.sparse_segments:
            raise LimitExceeded(f"a sparse file has more than sparse_segments pieces, {limits.sparse_segments}")
        if segment.length < 0 or segment.offset < last or not 0 <= segment.source <= tar_size - segment.length:
            raise MalformedLayer(f"piece {number} of a sparse file is out of order or not inside the tar")
        last = segment.offset + segment.length
    if last > size:
        raise MalformedLayer("a sparse file has a piece behind its end")
