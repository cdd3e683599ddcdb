"""A directory for real parts that cleans up after itself, and after a run that was killed.

Every workspace is ``/tmp/imagecache-XXXXXXXX`` with the owner's pid and start time in it. Opening one first removes
those whose owner is gone: their processes, mounts and files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from testkit.peers.processes import end_processes, mounts_below, unmount_below

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "imagecache-"
_OWNER = "owner"


def started(pid: int) -> str | None:
    """When the process started (clock ticks since boot), None when there is none: tells a reused pid apart."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def clean(directory: Path) -> None:
    """End the processes of ``directory``, unmount what is below it, remove it."""
    end_processes(directory)
    unmount_below(directory)
    shutil.rmtree(directory)


def sweep(base: Path) -> list[Path]:
    """Clean the workspaces in ``base`` whose owner is gone; returns them."""
    swept = []
    for directory in base.glob(f"{PREFIX}*"):
        owner = directory / _OWNER
        with contextlib.suppress(FileNotFoundError):
            pid, since = owner.read_text().split()
            if started(int(pid)) != since:
                clean(directory)
                swept.append(directory)
    return swept


def unmount_abandoned(base: Path) -> list[Path]:
    """Unmount what killed runs of pytest left below their temporary directories in ``base``; returns those directories.

    pytest removes the files of earlier runs itself. Each has its run's pid in ``.lock`` until that ends.
    """
    found = []
    for lock in base.glob("pytest-*/.lock"):
        with contextlib.suppress(FileNotFoundError):
            if started(int(lock.read_text())) is None and mounts_below(lock.parent):
                unmount_below(lock.parent)
                found.append(lock.parent)
    return found


@contextlib.contextmanager
def workspace(base: Path | None = None) -> Iterator[Path]:
    """A fresh directory, short enough for unix sockets below it, gone afterwards with all that was started for it."""
    base = base or Path(tempfile.gettempdir())
    sweep(base)
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    directory.chmod(0o711)
    (directory / _OWNER).write_text(f"{os.getpid()} {started(os.getpid())}")
    try:
        yield directory
    finally:
        clean(directory)
