"""Fresh directories for every turn, and a quiet machine before every timed step.

Deleting a peer's 36,500 files just before its next pull made that pull two to three times slower than the first one:
ext4 does not give an inode out again for a minute after it was freed (five while its block is dirty) and looks at each
such inode for every new file (``recently_deleted`` in fs/ext4/ialloc.c). So nothing is removed while anything is
measured: what a turn leaves is emptied at once, which frees no inode, and goes after the run.
"""

from __future__ import annotations

import os
import random
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from testkit.peers.processes import wait_until

Item = TypeVar("Item")
_RECENT = 65.0
"""Seconds after which freed inodes on the disk count as any others: RECENCY_MIN of ext4, and some."""
_RECENT_DIRTY = 370.0
"""The same for an inode whose block has been written to again: RECENCY_MIN and RECENCY_DIRTY."""
_QUIET = 0.3
_FEW = 20
"""Requests to all disks in ``_QUIET`` seconds that count as none: a journal's commit, a log's line."""
_LONGEST = 60.0


@dataclass(slots=True)
class Roots:
    """Hands out directories below ``base``."""

    base: Path
    _count: int = 0

    def fresh(self, name: str) -> Path:
        """A path that does not exist."""
        self._count += 1
        return self.base / f"{self._count:03}-{name}"

    def spend(self, path: Path) -> None:
        """Nothing of it is used any more: its files are empty from now on, while their inodes are in memory."""
        _empty(path)


def _empty(directory: Path) -> None:
    """Make its files empty, but those that have another name: that may be a blob of the cached images.

    Small ones too: they are half a gigabyte of each unpacked image, and a run has a hundred of those.
    """
    for place, _, names in os.walk(directory):
        for path in (Path(place, name) for name in names):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size:
                os.truncate(path, 0)


def pause(seconds: float) -> None:
    """Before the first turn, until no inode counts as deleted a moment ago."""
    forget_pages()  # an inode table that is not in memory is not looked at
    time.sleep(seconds)


def wait_after(removed: float) -> float:
    """Seconds to pause before the first turn, when an earlier run removed its files at this time (since 1970).

    Its inodes are all over the disk, and the first turn to take one makes the others of that block count for longer.
    """
    return max(_RECENT, removed + _RECENT_DIRTY - time.time())


def drawn(rounds: int, items: Sequence[Item]) -> Iterator[tuple[int, Item]]:
    """Each turn's round and item. Every round has an order of its own, so nobody always comes after the same one."""
    source = random.Random(7)  # noqa: S311 - nothing secret
    for number in range(rounds):
        yield from ((number, item) for item in source.sample(items, len(items)))


def settle() -> None:
    """Write everything to the disks, and wait until no disk does anything."""
    os.sync()
    wait_until(_is_quiet, seconds=_LONGEST)


def forget_pages() -> None:
    """``settle``, and empty the caches: the next read of a file, a program's own too, is one of the disk.

    Otherwise some turns took twice the processor time of others, in a run of an hour that had filled the memory with
    pages and inodes of earlier roots.
    """
    settle()
    drop_caches()


def drop_caches() -> None:
    """Empty the caches now, without waiting for a quiet disk."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def read_all(paths: Iterable[Path]) -> None:
    """So that whoever needs these files has them from memory, as every other contender has."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def _is_quiet() -> bool:
    before, _ = _disk_requests()
    time.sleep(_QUIET)
    after, waiting = _disk_requests()
    return after - before < _FEW and not waiting


def _disk_requests() -> tuple[int, int]:
    """Requests that all disks have completed, and those in flight (Documentation/admin-guide/iostats.rst)."""
    lines = [line.split() for line in Path("/proc/diskstats").read_text().splitlines()]
    return sum(int(words[3]) + int(words[7]) for words in lines), sum(int(words[11]) for words in lines)
