"""How many cores inflate one gzip layer: its share of those that the build has.

Where layers are many, each has one core and the plain decoder, which does the work with the least processor time. One
large layer on a machine with many cores would leave all but one of them idle.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from imagecache.limits import GIB, MIB

LEAST_SIZE = 32 * MIB
"""Compressed bytes below which a start of the other process takes longer than the inflating."""
_LEAST = 3
"""Below, the plain decoder is as fast: it takes half the processor time (measured: 3.5 cores for twice its speed)."""
_MOST = 8
"""Above, hashing the tar is the slower part."""
_OTHERS = 1
"""Cores for the parts of a conversion that run beside it."""
MEMORY = 3 * GIB // 2
"""Bytes that its process may take: 0.7 GiB with eight cores, and more for long runs of zeros, which fail early."""
RESERVED = 64 * GIB
"""Bytes of address space that it may reserve: its allocator takes four at once, and more with more cores."""
_CGROUP = Path("/sys/fs/cgroup")


def threads_for(size: int, left: int, cores: int) -> int:
    """0: the plain decoder. ``size`` of the layer, ``left`` to inflate in the build, both compressed."""
    share = cores * size // max(size, left)
    if size < LEAST_SIZE or share - _OTHERS < _LEAST:
        return 0
    return min(share - _OTHERS, _MOST)


def has_memory(cgroup: Path = _CGROUP) -> bool:
    """Whether the cgroup allows twice what the process takes."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of v2 and of v1, which says "none" by a large number
        with contextlib.suppress(OSError):
            limit = (cgroup / name).read_text().strip()
            return limit == "max" or int(limit) >= 2 * MEMORY
    return True


def cores(cgroup: Path = _CGROUP) -> int:
    """That this process may use: its affinity, and the quota of its cgroup. At least one."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """Cores by cgroup v2 or v1, as a container sees its own at the root. None: no bound."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in {"max", "-1"}:
        return None
    return int(quota) / int(period)
