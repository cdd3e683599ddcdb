"""Memory that pieces of a layer image arrive in, and that a worker process may map to read them there.

So a piece is hashed, proven and written without being copied once. It is page aligned, as writing past the page cache
needs it, and sealed: a worker can neither write to it nor take it away. It must not know what is in a piece.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

_F_SEAL_FUTURE_WRITE = 0x10
"""linux/fcntl.h: no new writable mappings, and no writes through the descriptor."""


class Slots:
    """``count`` pieces of at most ``size`` bytes."""

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size
        self.fd = os.memfd_create("imagecache-layer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        """To be mapped, not written to."""
        os.ftruncate(self.fd, count * size)
        self._memory = memoryview(mmap.mmap(self.fd, count * size))
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE)

    def offset(self, number: int) -> int:
        """Where piece ``number`` begins in the memory; the one ``count`` later begins there too."""
        return number % self.count * self.size

    def piece(self, number: int, length: int) -> memoryview:
        start = self.offset(number)
        return self._memory[start : start + length]

    def close(self) -> None:
        """The memory goes with the last view of it: a request that was cancelled may still write there."""
        os.close(self.fd)


class SlotPool:
    """Slots of one shape, used again: fresh memory costs a page fault every 4 KiB."""

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._size = size
        self._users = 0
        self._idle: list[Slots] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Memory that is given back stays for the next one until every such block has ended."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            while self._idle and not self._users:
                self._idle.pop().close()

    @contextmanager
    def borrow(self) -> Iterator[Slots]:
        """Inside of ``kept``. Not used again when it failed: a request that was cancelled may still write there."""
        slots = self._idle.pop() if self._idle else Slots(self._count, self._size)
        try:
            yield slots
        except BaseException:
            slots.close()
            raise
        self._idle.append(slots)
