"""How much memory this process and its children may take together, and how workers share it.

A worker that reads a hostile layer must end before its cgroup is full: then the kernel kills what it likes, and other
builds end with it. Source: cgroups(7); Linux ``admin-guide/cgroup-v2.rst`` (memory.max), ``cgroup-v1/memory.rst``
(memory.limit_in_bytes). It must not limit anything itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagecache.limits import GIB, MIB

_LEAST = 768 * MIB
"""Bytes for a worker: the largest window of zstd that is allowed (512 MiB), and an honest layer beside it."""
_MOST = 4 * GIB
"""No layer within the limits takes more."""


@dataclass(frozen=True, slots=True)
class Workers:
    number: int
    memory: int
    """Bytes of data (RLIMIT_DATA) of each."""


def share_out(memory: int, *, builds: int, jobs: int, cores: int) -> Workers:
    """Workers of one of so many builds, whose workers get three quarters of ``memory``. ``jobs``: 0 for as many as fit.

    The last quarter is for the processes that read no layers, and for the page cache, which cgroups count too.
    """
    own = memory // 4 * 3 // builds
    number = jobs or max(1, min(cores, own // _LEAST))
    return Workers(number, min(own // number, _MOST))


def available(proc: Path = Path("/proc/self/cgroup"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes: the least limit of this process's cgroups, or the machine's memory."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min((machine, *_limits(proc, cgroups)))


def _limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """Those that this process can see: in a container, the root of the hierarchy is mostly its own cgroup."""
    for directory, file in _hierarchies(proc, cgroups):
        for each in (directory, *directory.parents):
            if each.is_relative_to(cgroups):
                try:
                    text = (each / file).read_text().strip()
                except OSError:  # the root of the machine has no such file, and others may not be there to see
                    continue
                if text.isdigit():  # else "max"
                    yield int(text)


def _hierarchies(proc: Path, cgroups: Path) -> Iterator[tuple[Path, str]]:
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield cgroups / path.lstrip("/"), "memory.max"
        elif "memory" in controllers.split(","):
            yield cgroups / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
