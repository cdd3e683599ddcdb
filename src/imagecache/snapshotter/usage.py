"""Disk usage of a directory, measured in bounded time.

Allocated blocks, each inode once, as containerd's continuity/fs counts. CRI asks for every snapshot about every ten
seconds, so a measurement is kept for a while, and cut short when it takes too long. It must not touch rows.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from imagecache.clock import Clock
from imagecache.snapshotter.snapshot import Usage

_BLOCK = 512
"""Bytes in the unit of ``st_blocks``, whatever the filesystem's own block size is (stat(2))."""
_CLOCK_EVERY = 256
"""Entries between two reads of the clock."""


@dataclass(frozen=True, slots=True)
class Measured:
    usage: Usage
    complete: bool
    """False: the time was up, and there is more."""


def measure(directory: Path, clock: Clock, *, budget: float) -> Measured:
    """Everything at and below ``directory``, in at most about ``budget`` seconds. Files may disappear meanwhile."""
    end = clock.monotonic() + budget
    seen: set[tuple[int, int]] = set()
    size = count = 0
    waiting = [os.fspath(directory)]
    size += _add(seen, _stat(waiting[0]))
    while waiting:
        for entry in _entries(waiting.pop()):
            size += _add(seen, _stat(entry.path))
            if entry.is_dir(follow_symlinks=False):  # a link may lead out of the container's files
                waiting.append(entry.path)
            count += 1
            if count % _CLOCK_EVERY == 0 and clock.monotonic() > end:
                return Measured(Usage(size, len(seen)), complete=False)
    return Measured(Usage(size, len(seen)), complete=True)


class Meter:
    """Remembers measurements for ``age`` seconds. Thread-safe."""

    def __init__(self, clock: Clock, *, age: float, budget: float) -> None:
        self._clock = clock
        self._age = age
        self._budget = budget
        self._known: dict[Path, tuple[float, Measured]] = {}
        self._lock = threading.Lock()

    def measure(self, directory: Path) -> Measured:
        with self._lock:
            since, measured = self._known.get(directory, (float("-inf"), None))
        if measured is not None and self._clock.monotonic() - since < self._age:
            return measured
        new = measure(directory, self._clock, budget=self._budget)
        if not new.complete and measured is not None and measured.usage.size > new.usage.size:
            new = measured  # of two partial counts the larger one is closer
        with self._lock:
            self._known[directory] = (self._clock.monotonic(), new)
        return new

    def forget(self, directory: Path) -> None:
        with self._lock:
            self._known.pop(directory, None)


def _add(seen: set[tuple[int, int]], found: os.stat_result | None) -> int:
    """Bytes that this inode adds."""
    if found is None or (found.st_dev, found.st_ino) in seen:
        return 0
    seen.add((found.st_dev, found.st_ino))
    return found.st_blocks * _BLOCK


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except OSError:
        return []
