"""Where the content of regular files lies in a layer image: in the tar, or copied behind it when sparse. Pure.

The pieces of a sparse file are at any byte of the tar, and a chunk of a file is whole blocks. So the chunks that have
data are copied behind the padded tar, file by file in the order of the inodes; holes are nowhere. Every offset that the
tree has into the tar is checked here. It must not do I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from imagecache.erofs.chunks import Chunks, choose
from imagecache.erofs.format import SMALL_BLOCK, align
from imagecache.erofs.layer_header import DATA_START
from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.limits import Limits
from imagecache.tree import Inode, Segment

HOST_BLOCK = 4096
"""Block size of the filesystems that hold layer images; a page."""
TAR_BLOCK = 512


@dataclass(frozen=True, slots=True)
class SparseCopy:
    """A sparse file, and the copy of its chunks with data."""

    position: int
    """Of the copy in the file, a multiple of the block size."""
    chunks: Chunks
    segments: tuple[Segment, ...]

    @property
    def address(self) -> int:
        """Block address of the copy."""
        return self.position >> self.chunks.block_bits

    def places(self) -> Iterator[tuple[int, Segment]]:
        """Each piece with data, and its position in the file; rising. Between them the copy has zeros."""
        return ((self.position + at, segment) for at, segment in self.chunks.places(self.segments))


class Content(Protocol):
    """Decides where content lies. ``layout`` calls ``locate`` once for each regular file that is not empty."""

    def locate(self, inode: Inode) -> int | SparseCopy:
        """Position of the content in the file, a multiple of the block size; of a sparse file its copy."""

    def end(self) -> int:
        """Position behind all content, once every file has been located."""


class TarContent:
    """Content in the tar that starts at ``DATA_START``."""

    def __init__(self, tar_size: int, limits: Limits) -> None:
        if not 0 <= tar_size <= limits.layer_uncompressed:
            raise LimitExceeded(f"tar of {tar_size} bytes, layer_uncompressed is {limits.layer_uncompressed}")
        self.copies: list[SparseCopy] = []
        """Of the sparse files, positions rising."""
        self._tar_size = tar_size
        self._limits = limits
        self._start = self._end = align(DATA_START + tar_size, HOST_BLOCK)

    def locate(self, inode: Inode) -> int | SparseCopy:
        if inode.sparse is not None:
            return self._copy(inode, inode.sparse)
        # The block address of an inode counts 512-byte blocks, so content off that grid could not be named.
        if inode.data % TAR_BLOCK or not 0 <= inode.data <= self._tar_size - inode.size:
            raise MalformedLayer(f"a file of {inode.size} bytes at {inode.data} is not inside the tar")
        return DATA_START + inode.data

    def end(self) -> int:
        return align(self._end, HOST_BLOCK)

    def _copy(self, inode: Inode, segments: tuple[Segment, ...]) -> SparseCopy:
        check_segments(segments, inode.size, self._tar_size, self._limits)
        chunks = choose(segments, inode.size, SMALL_BLOCK, self._limits.sparse_chunks)
        copy = SparseCopy(self._end, chunks, segments)
        self._end += chunks.stored
        if self._end - self._start > self._limits.layer_uncompressed:
            raise LimitExceeded(
                f"the copies of sparse files pass layer_uncompressed, {self._limits.layer_uncompressed}"
            )
        self.copies.append(copy)
        return copy


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
