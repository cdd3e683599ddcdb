"""Which chunks of a sparse file have data, and the table in which its inode says where they lie. Pure.

A chunk is a block times a power of two, one power for each file. A chunk without data is in no image at all, so large
chunks have a small table, and small ones have little around the data: the power is the one that gives the smallest
image. Same pieces, same chunks. It must not know where the data comes from. Source: Linux ``fs/erofs/erofs_fs.h``
(EROFS_INODE_CHUNK_BASED, with a block map) and ``fs/erofs/data.c`` (erofs_map_blocks).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from imagecache.erofs.format import CHUNK_ENTRY, MAX_CHUNK_BITS, NO_BLOCK, align
from imagecache.errors import LimitExceeded
from imagecache.tree import Segment

_PART = 1 << 18
"""Entries in one piece of a table: 1 MiB."""
_HOLES = NO_BLOCK.to_bytes(CHUNK_ENTRY, "little")


@dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks of one sparse file. Those with data lie behind each other in its copy, in their order."""

    size: int
    """Bytes of the file, with its holes; not 0."""
    block_bits: int
    bits: int
    """log2 of the blocks of a chunk."""
    firsts: array[int]
    """The first chunk of each run of chunks with data, rising, with a hole between two runs, and..."""
    ends: array[int]
    """... the chunk behind it. Arrays: a file may have a million runs."""

    @property
    def entries(self) -> int:
        """Of the table: the last chunk may be a part of one."""
        return -(-self.size >> self.block_bits + self.bits)

    @property
    def stored(self) -> int:
        """Bytes of the copy, whole blocks."""
        shift = self.block_bits + self.bits
        stored = sum(self.ends) - sum(self.firsts) << shift
        if self.ends and self.ends[-1] == self.entries:  # the copy ends with the file's last block
            stored -= (self.entries << shift) - align(self.size, 1 << self.block_bits)
        return stored

    @property
    def cost(self) -> int:
        """Bytes of table and copy."""
        return CHUNK_ENTRY * self.entries + self.stored

    def table(self, address: int) -> Iterator[bytes]:
        """The block map of a copy at this block address, in pieces of at most 1 MiB."""
        at = 0
        for first, end in zip(self.firsts, self.ends, strict=True):
            yield from _holes(first - at)
            for start in range(first, end, _PART):
                count = min(_PART, end - start)
                addresses = array("I", range(address, address + (count << self.bits), 1 << self.bits))
                if sys.byteorder == "big":
                    addresses.byteswap()
                yield addresses.tobytes()
                address += count << self.bits
            at = end
        yield from _holes(self.entries - at)

    def places(self, segments: Iterable[Segment]) -> Iterator[tuple[int, Segment]]:
        """Where in the copy each piece with data lies; ``segments`` are those that the chunks were chosen for."""
        shift = self.block_bits + self.bits
        runs = zip(self.firsts, self.ends, strict=True)
        first = end = behind = 0
        """The run, and the chunks of the copy up to its end."""
        for segment in segments:
            if not segment.length:
                continue
            while segment.offset >> shift >= end:
                first, end = next(runs)
                behind += end - first
            yield segment.offset - (end - behind << shift), segment


def _holes(count: int) -> Iterator[bytes]:
    for start in range(0, count, _PART):
        yield _HOLES * min(_PART, count - start)


def choose(segments: Iterable[Segment], size: int, block_bits: int, most: int) -> Chunks:
    """The chunks of a file of ``size`` bytes, not 0, with data in ``segments`` (rising, apart, inside the file).

    A table has at most ``most`` entries. Of chunks that take the same space the largest are chosen. Raises
    LimitExceeded for a file that no table can describe.
    """
    bits = 0
    while -(-size >> block_bits + bits) > most:
        bits += 1
    if bits > MAX_CHUNK_BITS:
        raise LimitExceeded(f"a sparse file of {size} bytes; EROFS can describe {most << block_bits + MAX_CHUNK_BITS}")
    shift = block_bits + bits
    firsts, ends = _joined(
        (segment.offset >> shift, (segment.offset + segment.length - 1 >> shift) + 1)
        for segment in segments
        if segment.length
    )
    found = best = Chunks(size, block_bits, bits, firsts, ends)
    # Larger chunks never have a smaller copy, so once the copy alone is too large there is nothing better.
    while found.entries > 1 and found.bits < MAX_CHUNK_BITS and found.stored < best.cost:
        firsts, ends = _joined((first >> 1, end + 1 >> 1) for first, end in zip(firsts, ends, strict=True))
        found = Chunks(size, block_bits, found.bits + 1, firsts, ends)
        if found.cost <= best.cost:
            best = found
    return best


def _joined(runs: Iterable[tuple[int, int]]) -> tuple[array[int], array[int]]:
    """Runs as starts and ends; those that touch or overlap are one."""
    firsts, ends = array("Q"), array("Q")
    last = -1
    for first, end in runs:
        if first > last:
            firsts.append(first)
            ends.append(end)
        else:
            ends[-1] = end
        last = end
    return firsts, ends
