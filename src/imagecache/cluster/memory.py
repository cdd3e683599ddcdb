"""Memory that pieces of a layer image arrive in, and that a worker process may map to read them there.

So a piece is hashed, proven and written without being copied once. It is page aligned, as writing past the page cache
needs it, and sealed: a worker can neither write to it nor take it away. It must not know what is in a piece.
"""

from __future__ import annotations

import fcntl
import mmap
import os

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
