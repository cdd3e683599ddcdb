"""The table of a chunk-based inode of a layer image, read and checked: where the data of a sparse file lies.

Independent of the writer, so that it finds the writer's mistakes too. A table is read in windows when the content is
asked for, so that any file needs bounded memory, and a look at an inode no time. It reads only through ``ImageFile``.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from imagecache.erofs.format import CHUNK_ENTRY, MAX_CHUNK_BITS, NO_BLOCK, align
from imagecache.erofs.image_file import ImageFile
from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.limits import Limits

_WINDOW = 1 << 14
"""Entries that are in memory: 64 KiB."""


class Extent(NamedTuple):
    """Content that lies together; what no extent has are zeros. All in bytes."""

    offset: int
    """In the content."""
    position: int
    """In the file."""
    length: int


class StoredChunks(NamedTuple):
    """What an inode says of its table."""

    nid: int
    size: int
    """Bytes of the content."""
    block_bits: int
    bits: int
    """log2 of the bytes of a chunk."""
    table: int
    """Position in the file."""

    @property
    def entries(self) -> int:
        return -(-self.size >> self.bits)

    @property
    def table_size(self) -> int:
        return CHUNK_ENTRY * self.entries


def check(chunks: StoredChunks, file: ImageFile, limits: Limits) -> None:
    """Refuse what no inode of a layer image says. Raises MalformedLayer, LimitExceeded."""
    nid, size = chunks.nid, chunks.size
    if size == 0 or chunks.bits - chunks.block_bits > MAX_CHUNK_BITS:
        raise MalformedLayer(f"sparse inode {nid} is empty, or has chunks that do not occur in layer images")
    if size > limits.layer_uncompressed:
        raise LimitExceeded(f"sparse inode {nid} has {size} bytes, layer_uncompressed is {limits.layer_uncompressed}")
    if chunks.entries > limits.sparse_chunks:
        raise LimitExceeded(f"sparse inode {nid} has {chunks.entries} chunks, sparse_chunks is {limits.sparse_chunks}")
    if chunks.table + chunks.table_size > file.size:
        raise MalformedLayer(f"the chunks of sparse inode {nid} are not inside the layer image")


def extents(file: ImageFile, chunks: StoredChunks, within: range) -> Iterator[Extent]:
    """The runs of chunks with data, rising in content and file.

    Raises MalformedLayer unless all chunks with data lie behind each other, in their order, ``within`` these positions.
    """
    step = 1 << chunks.bits - chunks.block_bits
    expected = -1
    """Block address of the next chunk with data; -1 before the first."""
    run: Extent | None = None
    for number, address in _entries(file, chunks):
        if address == NO_BLOCK:
            if run is not None:
                yield run
                run = None
            continue
        if expected not in {-1, address}:
            raise MalformedLayer(f"the chunks of sparse inode {chunks.nid} do not lie behind each other")
        expected = address + step
        offset, position = number << chunks.bits, address << chunks.block_bits
        length = min(1 << chunks.bits, chunks.size - offset)
        # The copy ends with the last block of the content, in the middle of a chunk.
        if position < within.start or position + align(length, 1 << chunks.block_bits) > within.stop:
            raise MalformedLayer(f"the content of sparse inode {chunks.nid} is not where it belongs")
        run = Extent(offset, position, length) if run is None else run._replace(length=run.length + length)
    if run is not None:
        yield run


def _entries(file: ImageFile, chunks: StoredChunks) -> Iterator[tuple[int, int]]:
    """Number and block address of each chunk; of neighbouring holes in one window perhaps the first alone."""
    for first in range(0, chunks.entries, _WINDOW):
        count = min(_WINDOW, chunks.entries - first)
        data = file.read(chunks.table + CHUNK_ENTRY * first, CHUNK_ENTRY * count)
        if data.count(b"\xff") == len(data):
            yield first, NO_BLOCK
            continue
        addresses = array("I", data)
        if sys.byteorder == "big":
            addresses.byteswap()
        yield from enumerate(addresses, first)
