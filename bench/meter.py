"""What a turn costs apart from time: processor, memory and disk.

Processor time is that of the whole machine, on which nothing else runs: the registry, the kernel's own work and what
containers do are in it, so that nobody's work hides in a place that is not looked at. Memory is that of the processes
that were started for a node, without containers.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from testkit.cluster.cgroups import is_unified
from testkit.peers.processes import wait_until
from testkit.peers.programs import PeerFailed

_BASE = Path("/sys/fs/cgroup")
_GROUP = "imagecache-bench-{}"
_EVERY = 0.2
"""Seconds between two looks at the memory: often enough for what lives as long as a layer, and cheap."""


def busy_seconds() -> float:
    """Of all processors together since the machine started, without what they waited (proc(5), /proc/stat)."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class MemoryMeter:
    """A context manager: inside, this process and what it starts are in a cgroup of their own.

    So daemons, their children and the commands that it runs are found; containers have cgroups of their own.
    """

    def __init__(self) -> None:
        self._root = _BASE if is_unified() else _BASE / "cpuacct"
        self._group = self._root / _GROUP.format(os.getpid())
        self._before = ""
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        _sweep(self._root)
        self._before = _own_group()
        self._group.mkdir()
        self._move(self._group)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._move(self._root / self._before.lstrip("/"))
        if not wait_until(lambda: _removed(self._group), seconds=10):
            raise PeerFailed(f"{self._group} still has processes: {(self._group / 'cgroup.procs').read_text().split()}")

    def _move(self, group: Path) -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    def reset(self) -> None:
        self._peak = 0

    @property
    def peak(self) -> int:
        """Bytes: the most that all processes had in anonymous memory at one look since ``reset``."""
        return self._peak

    def _watch(self) -> None:
        while not self._done.wait(_EVERY):
            self._peak = max(self._peak, sum(self._anonymous()))

    def _anonymous(self) -> Iterator[int]:
        for pid in (self._group / "cgroup.procs").read_text().split():
            if int(pid) != os.getpid():
                with contextlib.suppress(OSError):  # it has ended since
                    yield _rss_anonymous(Path(f"/proc/{pid}/status").read_text())


def _sweep(root: Path) -> None:
    """Remove the cgroups of runs that were killed."""
    for group in root.glob(_GROUP.format("*")):
        if not Path(f"/proc/{group.name.rpartition('-')[2]}").exists():
            _removed(group)


def _removed(group: Path) -> bool:
    """A process that has just ended stays in its cgroup for a moment."""
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


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
