"""End this process when it takes too much memory, for a library that reserves far more than it uses.

rapidgzip's allocator reserves four gigabytes of address space, which RLIMIT_DATA counts, and dies without them. So what
is resident is looked at instead. Source: proc_pid_statm(5).
"""

from __future__ import annotations

import os
import threading
import time

_PAUSE = 0.02
"""Seconds between two looks: inflating fills some 100 MiB in that time."""
EXIT_STATUS = 70


def open_watch() -> int:
    """The file that ``watch`` looks at; to be opened while this process may still open files."""
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


def watch(fd: int, most: int) -> None:
    """From now on: at most ``most`` bytes that are this process' own."""
    threading.Thread(target=_look, args=(fd, most), name="memory", daemon=True).start()


def _look(fd: int, most: int) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    while True:
        _size, resident, shared, *_ = map(int, os.pread(fd, 200, 0).split())
        if (resident - shared) * page > most:
            os._exit(EXIT_STATUS)
        time.sleep(_PAUSE)
