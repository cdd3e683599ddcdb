"""What a turn costs apart from time: processor seconds and memory of everything that was started for it.

A cgroup of its own that the bench enters before it starts a node, so that daemons, their children and the commands that
it runs are born in it; containers have cgroups of their own and are not counted. Work of the kernel on behalf of
nobody (writeback, loop devices) is in no process and so in no figure.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Self

from testkit.cluster.cgroups import is_unified
from testkit.peers.processes import wait_until

_BASE = Path("/sys/fs/cgroup")
_EVERY = 0.2
"""Seconds between two looks at the memory: often enough for what lives as long as a layer, and cheap."""
_NANOSECONDS = 1e9
_MICROSECONDS = 1e6


class Meter:
    """A context manager: inside, this process and what it starts are in the cgroup."""

    def __init__(self) -> None:
        self._root = _BASE if is_unified() else _BASE / "cpuacct"
        self._group = self._root / f"imagecache-bench-{os.getpid()}"
        self._before = ""
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._before = _own_group()
        self._group.mkdir(exist_ok=True)
        self._move(self._group)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._move(self._root / self._before.lstrip("/"))
        wait_until(self._removed, seconds=10)

    def _move(self, group: Path) -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    def _removed(self) -> bool:
        """A process that has just ended stays in its cgroup for a moment."""
        with contextlib.suppress(OSError):
            self._group.rmdir()
        return not self._group.exists()

    @property
    def processor_seconds(self) -> float:
        """Of all processes so far."""
        if is_unified():
            lines = (self._group / "cpu.stat").read_text().splitlines()
            return int(dict(line.split() for line in lines)["usage_usec"]) / _MICROSECONDS
        return int((self._group / "cpuacct.usage").read_text()) / _NANOSECONDS

    def reset_peak(self) -> None:
        self._peak = 0

    @property
    def peak_memory(self) -> int:
        """Bytes: the most that all processes had in anonymous memory at one look since ``reset_peak``."""
        return self._peak

    def _watch(self) -> None:
        while not self._done.wait(_EVERY):
            self._peak = max(self._peak, self._anonymous())

    def _anonymous(self) -> int:
        total = 0
        for pid in (self._group / "cgroup.procs").read_text().split():
            if int(pid) != os.getpid():
                with contextlib.suppress(OSError):  # it has ended since
                    total += _rss_anonymous(Path(f"/proc/{pid}/status").read_text())
        return total


def _rss_anonymous(status: str) -> int:
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def _own_group() -> str:
    """Path of this process in the hierarchy that is used."""
    wanted = "" if is_unified() else "cpuacct"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if wanted in controllers.split(","):
            return path
    return "/"


def disk_held(directory: Path) -> int:
    """Bytes of disk that everything below a directory takes, mounts left out.

    A file with several names counts once, and not at all when one of them is elsewhere: it was there before.
    """
    device = directory.stat().st_dev
    names: Counter[int] = Counter()
    held: dict[int, tuple[int, int]] = {}
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if _device(os.path.join(folder, name)) == device]  # noqa: PTH118 - 40,000 times
        for name in files:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - 40,000 times
                if status.st_dev == device:
                    names[status.st_ino] += 1
                    held[status.st_ino] = (status.st_nlink, status.st_blocks * 512)
    return sum(size for inode, (links, size) in held.items() if names[inode] == links)


def _device(path: str) -> int:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_dev
    return -1
