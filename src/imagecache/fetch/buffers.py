"""Memory that pieces of a layer image arrive in, and that a worker process may map to read them there.

So a piece is hashed, proven and written without a copy. The memory is page aligned, as direct I/O needs it, and sealed:
a worker can neither write to it nor truncate it. It must not know what is in a piece.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

_F_SEAL_FUTURE_WRITE = 0x10
"""linux/fcntl.h: no new writable mappings, and no writes through the descriptor."""


class Slots:
    """Memory for ``count`` pieces of at most ``size`` bytes."""

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size
        self.fd = os.memfd_create("imagecache-layer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        """For a worker to map."""
        self.abandoned = False
        """A request that was cancelled may still write here: it must not be reused."""
        os.ftruncate(self.fd, count * size)
        # Mapped before it is sealed: the seal forbids writable mappings made later, and lets this one be.
        self._memory = memoryview(mmap.mmap(self.fd, count * size))
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE)

    def offset(self, number: int) -> int:
        """Where piece ``number`` begins in the memory; piece ``number + count`` begins there too."""
        return number % self.count * self.size

    def piece(self, number: int, length: int) -> memoryview:
        start = self.offset(number)
        return self._memory[start : start + length]

    def close(self) -> None:
        """Memory that a view still points to stays until the view is gone."""
        os.close(self.fd)


class UnpackingMemory:
    """Memory that a worker unpacks a piece into, and a copy of the piece that the worker cannot reach.

    What is hashed must not change before it is written, whatever the worker does; so only the copy is used.
    """

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("imagecache-unpacked", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        """For a worker to map, and to write to."""
        os.ftruncate(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._copy = memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def copy(self, length: int) -> None:
        """Take the first bytes as they are now. Blocks for a moment."""
        at = 0
        while at < length:
            at += os.preadv(self.fd, [self._copy[at:length]], at)

    def copied(self, length: int) -> memoryview:
        """What was taken; page aligned, and valid until the next ``copy``."""
        return self._copy[:length]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)


class SlotPool:
    """Slots of one shape, reused: fresh memory costs a page fault every 4 KiB."""

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._size = size
        self._users = 0
        self._idle: list[Slots] = []

    @contextmanager
    def borrow(self) -> Iterator[Slots]:
        """Returned memory is kept for the next borrower, and freed with the last one."""
        slots = self._idle.pop() if self._idle else Slots(self._count, self._size)
        self._users += 1
        try:
            yield slots
        finally:
            self._users -= 1
            if slots.abandoned:
                slots.close()
            else:
                self._idle.append(slots)
            while self._idle and not self._users:
                self._idle.pop().close()
