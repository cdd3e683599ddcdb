"""Keep freed memory for the next piece of a layer instead of returning it to the kernel.

A conversion allocates and frees pieces of up to 4 MiB all the time. By default glibc maps and unmaps them, and the
kernel clears every page again: a sixth of the time of a conversion. The setting is for the whole process, so only
processes that convert call it. Source: mallopt(3).
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT = 128 << 20
"""More than the pieces in the queues of one conversion: three queues of four pieces of 4 MiB."""


def keep_freed_memory() -> None:
    """No effect with a C library that has no mallopt (musl)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the maximum on 64 bits (HEAP_MAX_SIZE / 2)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
