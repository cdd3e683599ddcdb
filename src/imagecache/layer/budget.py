"""What one layer's tree may cost in memory and work, counted while it is made.

Every entry brings an allowance, so an honest layer of any size passes, while one whose few entries imply, link, hide or
carry much more than they are does not. The counts follow from the tar alone: controller and nodes give one verdict. It
must not measure anything.
"""

from __future__ import annotations

from imagecache.errors import LimitExceeded
from imagecache.limits import Limits

_HINT = "no image that a builder made is near this bound; check where the image comes from"
_DIRECTORY = 1024
"""Bytes of an implied directory, its record and its place in the layout."""


class Budget:
    """Of one layer. The bounds are ``tree_bytes``, ``tree_steps`` and ``layer_entries`` of ``limits``."""

    __slots__ = ("_bytes", "_entries", "_limits", "_most", "_steps")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most = limits.layer_entries
        self._entries = 0
        self._bytes = 0
        self._steps = 0

    def enter(self) -> None:
        """Another entry. Raises LimitExceeded."""
        self._entries += 1
        if self._entries > self._most:
            raise LimitExceeded(f"a layer has more than {self._limits.layer_entries} entries")

    def imply(self) -> None:
        """Another directory without an entry. Raises LimitExceeded."""
        self._most -= 1
        self.keep(_DIRECTORY)
        if self._entries > self._most:
            raise LimitExceeded(f"a layer has more than {self._limits.layer_entries} names")

    def keep(self, size: int) -> None:
        """The tree takes ``size`` more bytes. Raises LimitExceeded."""
        self._bytes += size
        limits = self._limits
        if self._bytes > limits.tree_bytes + limits.entry_bytes * self._entries:
            raise LimitExceeded(
                f"the layer's tree takes more than tree_bytes, {limits.tree_bytes}, besides {self._entries} entries",
                hint=_HINT,
            )

    def step(self, count: int = 1) -> None:
        """``count`` steps of work. Raises LimitExceeded."""
        self._steps += count
        limits = self._limits
        if self._steps > limits.tree_steps + limits.entry_steps * self._entries:
            raise LimitExceeded(
                f"the layer's tree takes more than tree_steps, {limits.tree_steps}, besides {self._entries} entries",
                hint=_HINT,
            )
