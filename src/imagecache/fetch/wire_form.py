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
_NEWEST = 0.3
"""Weight of the newest rate in the mean."""


@dataclass(slots=True)
class _Rate:
    """Bytes of a layer image that a request brings in a second."""

    mean: float = 0.0
    """0: nothing has arrived yet."""

    def take(self, rate: float) -> None:
        self.mean = self.mean + _NEWEST * (rate - self.mean) if self.mean else rate


class WireForm:
    """One for a remote store."""

    def __init__(self, compression: StoreCompression) -> None:
        self._compression = compression
        self._plain, self._packed = _Rate(), _Rate()
        self._asked = 0

    def packed(self) -> bool:
        """Whether the next block is to be asked for in compressed form. It is counted."""
        if self._compression is not StoreCompression.AUTO:
            return self._compression is StoreCompression.ALWAYS
        turn, self._asked = self._asked, self._asked + 1
        if turn < 2 * _TRIES:
            return turn >= _TRIES
        better = self._packed.mean > _GAIN * self._plain.mean
        return better if turn % _AGAIN >= _TRIES else not better

    def took(self, size: int, seconds: float, *, packed: bool) -> None:
        """A request for ``size`` bytes of a layer image took so long."""
        (self._packed if packed else self._plain).take(size / max(seconds, 1e-6))
