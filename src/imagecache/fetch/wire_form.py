"""In which form a layer image travels to this node: as it is, or in compressed blocks.

Over a fast network unpacking costs more than it saves; over a slow one, or one that many nodes share, it is the other
way round. So both are tried, and the faster one goes on, by the bytes of the layer image that a request brings in a
second; now and then the other one is tried again. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagecache.settings.choices import StoreCompression

_TRIES = 3
"""Requests of each form before the first decision, and of the slower form in each _AGAIN."""
_AGAIN = 64
"""Requests: 512 MiB."""
_GAIN = 1.25
"""How many times as fast compressed blocks have to be: they take processor time on both sides."""
_NEWEST = 0.5
"""Weight of the newest value in the mean."""
_SHORTEST = 1e-6
"""Seconds, for clocks that stand still."""


@dataclass(slots=True)
class _Pace:
    """Seconds for a byte of a layer image: a mean in which what came lately counts more."""

    mean: float = 0.0
    """0: nothing has arrived yet."""

    def take(self, size: int, seconds: float) -> None:
        new = max(seconds, _SHORTEST) / size
        self.mean = self.mean + _NEWEST * (new - self.mean) if self.mean else new


class WireForm:
    """One for a remote store. Blocks that are asked for have one size."""

    def __init__(self, compression: StoreCompression) -> None:
        self._compression = compression
        self._plain, self._packed, self._unpacking = _Pace(), _Pace(), _Pace()
        self._asked = 0

    def packed(self) -> bool:
        """Whether the next block is to be asked for in compressed form. It is counted."""
        if self._compression is not StoreCompression.AUTO:
            return self._compression is StoreCompression.ALWAYS
        turn, self._asked = self._asked, self._asked + 1
        if turn < 2 * _TRIES:
            return turn >= _TRIES
        better = 0 < _GAIN * (self._packed.mean + self._unpacking.mean) < self._plain.mean
        return better if turn % _AGAIN >= _TRIES else not better

    def took(self, size: int, seconds: float, *, packed: bool) -> None:
        """A request for ``size`` bytes of a layer image took so long; one that failed counts until it was mended."""
        (self._packed if packed else self._plain).take(size, seconds)

    def unpacked(self, size: int, seconds: float) -> None:
        """So many bytes of a layer image were unpacked in this time."""
        self._unpacking.take(size, seconds)
