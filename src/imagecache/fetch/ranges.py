"""The ranges that a layer image is fetched in: which comes next, and one that has arrived. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of a layer image, in memory."""

    start: int
    data: memoryview
    memory_offset: int
    """Where ``data`` begins in the memory that the verifier's worker maps."""
    here: bool
    size: int | None = None
    """Of the whole file, once the build of a partial layer has finished it."""
    unpacked: int = 0
    """Bytes that ``data`` is the compressed form of; 0: it is not compressed."""

    @property
    def end(self) -> int:
        return self.start + (self.unpacked or len(self.data))


@dataclass(frozen=True, slots=True)
class Range:
    start: int
    end: int
    """Of a partial layer, less may arrive."""
    slot: int
    here: bool
    """An earlier fetch has written it."""
    block: int | None = None
    """The number of the whole block (``served.protocol``) that it is, if ranges are as long as blocks."""


class Ranges:
    """The ranges of a layer image in order, each in one slot of memory.

    Without an ``end`` the next range is known when the one before has arrived.
    """

    def __init__(self, length: int, start: int, end: int | None, here: int = 0) -> None:
        """Bytes before ``here`` are in the file already."""
        self.open_ended = end is None
        self._length = length
        self._at = start
        self._end = sys.maxsize if end is None else end
        self._here = here
        self._slot = 0
        self._waiting = False

    def next(self) -> Range | None:
        """None: all were handed out, or the next one is not known yet."""
        if self._waiting or self._at >= self._end:
            return None
        here = self._at < self._here
        # Up to a multiple of the length, so that after a short range offsets are aligned for direct I/O again.
        border = self._at - self._at % self._length + self._length
        end = min(border, self._here if here else self._end)
        whole = end - self._at == self._length and not here and not self.open_ended
        wanted = Range(self._at, end, self._slot, here, self._at // self._length if whole else None)
        self._at, self._slot, self._waiting = wanted.end, self._slot + 1, self.open_ended
        return wanted

    def arrived(self, piece: Piece) -> None:
        """The range that was handed out last has arrived."""
        if self.open_ended:
            self._at, self._waiting = piece.end, False
            self._end = sys.maxsize if piece.size is None else piece.size
