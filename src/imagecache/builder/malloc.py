"""Keep freed memory for the next piece of a layer instead of giving it back to the kernel.

A conversion allocates and frees pieces of up to 4 MiB all the time. By default glibc maps and unmaps them, and the
kernel clears every page again: a sixth of the time of a conversion. It changes the whole process, so only processes
that convert call it. Source: mallopt(3).
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT = 128 << 20


def keep_freed_memory() -> None:
    """No effect with a C library that has no mallopt."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that mallopt takes
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
