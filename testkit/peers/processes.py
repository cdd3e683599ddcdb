"""Daemons with a recorded pid, and the processes and mounts that they leave.

A process is ours when one of its arguments is, or lies below, a directory that we made; so a later run finds what a
killed one left without guessing by name. Nothing else is ever signalled or unmounted.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from testkit.peers.programs import PeerFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

_MNT_DETACH = 2
_TAIL = 60


def wait_until(ready: Callable[[], bool], *, seconds: float, every: float = 0.01) -> bool:
    """Ask until the answer is true; false when the deadline passes first."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


class Daemon:
    """One long-running program: its log, its pid file, its start and its end."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        directory: Path,
        env: Mapping[str, str],
        *,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self._pass_fds = tuple(pass_fds)
        self.log = directory / f"{name}.log"
        self._argv = [str(word) for word in argv]
        self._pid_file = directory / f"{name}.pid"
        self._env = dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise PeerFailed(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, ready: Callable[[], bool], *, seconds: float = 30) -> None:
        """Start and wait until ``ready``. Raises PeerFailed with the end of the log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=self._pass_fds,
            )
        self._pid_file.write_text(str(self._process.pid))
        if not wait_until(lambda: not self.running or ready(), seconds=seconds) or not self.running:
            state = "was not ready in time" if self.running else f"ended with {self._process.returncode}"
            self.stop()
            raise PeerFailed(f"{self.name} {state}; {self.log} ends with:\n{self.tail()}")

    def stop(self, *, seconds: float = 10) -> None:
        """Ask it to end, then make it. A no-op when it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def tail(self, lines: int = _TAIL) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _pids() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _names(word: str, prefix: str) -> bool:
    return f"{word}/".startswith(prefix) or f"{word.partition('=')[2]}/".startswith(prefix)


def processes_of(directory: Path) -> list[int]:
    """Processes with an argument at or below ``directory``, and everything that descends from them; ours left out.

    The argument is the path, or ``--flag=path``.
    """
    own = {os.getpid(), os.getppid()}
    found = {pid for pid in _pids() if any(_names(word, f"{directory}/") for word in _arguments(pid))} - own
    parents = {pid: _parent(pid) for pid in _pids()}
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in found} - found - own
        found |= children
        grown = bool(children)
    return sorted(found)


def end_processes(directory: Path, *, seconds: float = 10) -> None:
    """Kill what is left of the daemons and shims that were started for ``directory``. Raises PeerFailed."""
    kill_all(lambda: processes_of(directory), f"processes of {directory}", seconds=seconds)


def kill_all(find: Callable[[], Collection[int]], what: str, *, seconds: float = 10) -> None:
    """Kill what ``find`` finds until it finds nothing. Raises PeerFailed."""

    def gone() -> bool:
        left = find()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return not left

    if not wait_until(gone, seconds=seconds):
        raise PeerFailed(f"{what} do not end: {sorted(find())}")


def mounts_below(directory: Path) -> list[Path]:
    """Mount points at or below ``directory``, newest first, from /proc/self/mountinfo."""
    prefix = f"{directory}/"
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        point = line.split(" ")[4].encode(errors="surrogateescape").decode("unicode_escape")
        if f"{point}/".startswith(prefix):
            found.append(Path(point))
    return found[::-1]


def unmount_below(directory: Path) -> None:
    """Unmount everything at or below ``directory``, also what is busy (it then goes with its last user)."""
    libc = ctypes.CDLL(None, use_errno=True)
    for point in mounts_below(directory):
        libc.umount2(os.fsencode(point), _MNT_DETACH)
    left = mounts_below(directory)
    if left:
        raise PeerFailed(f"still mounted: {', '.join(map(str, left))}")
