"""What this package needs from others: the uncompressed tar as a source, and the trees below for implied parents."""

from __future__ import annotations

from typing import Protocol

from imagecache.tree import Inode


class TarSource(Protocol):
    """The uncompressed tar, read front to back. Positions are bytes from its start."""

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes, fewer only at the end of the stream."""

    def skip(self, size: int) -> int:
        """Move on by ``size`` bytes and return how many there were (fewer only at the end)."""

    def tell(self) -> int:
        """Position of the next byte."""


class LowerTree(Protocol):
    """The finished tree of one layer below, as its layer image has it."""

    def root(self) -> Inode:
        """The root directory. Its ``children`` may be empty: go through ``child``."""

    def child(self, directory: Inode, name: bytes) -> Inode | None:
        """The named child, with mode, owner, target and xattrs filled in. Last component never followed."""
