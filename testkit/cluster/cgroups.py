"""A node's own subtree in every cgroup hierarchy: two kubelets with one root would kill each other's pods.

cgroup v1, with or without v2 beside it, and v2 alone. Paths are relative to the hierarchies' roots.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from testkit.peers.processes import wait_until
from testkit.peers.programs import PeerFailed

_BASE = Path("/sys/fs/cgroup")
_CPUSET = ("cpuset.cpus", "cpuset.mems")


def is_unified() -> bool:
    """v2 alone."""
    return (_BASE / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """Roots of the hierarchies that are mounted: one for v2, one per controller for v1."""
    if is_unified():
        return [_BASE]
    return sorted(folder for folder in _BASE.iterdir() if folder.is_mount())


def create(path: str) -> None:
    """Make ``path`` everywhere, usable for kubelet at once."""
    for root in hierarchies():
        folder = root
        for part in Path(path).parts:
            if is_unified():
                _delegate(folder)
            parent, folder = folder, folder / part
            folder.mkdir(exist_ok=True)
            _inherit_cpuset(parent, folder)
    if is_unified():
        _delegate(_BASE / path)


def _delegate(folder: Path) -> None:
    """Children get every controller that this cgroup has (cgroup-v2.rst, "Enabling and disabling")."""
    for controller in (folder / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):  # some, such as cpu beside real-time tasks, cannot be given on
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _inherit_cpuset(parent: Path, folder: Path) -> None:
    """A new cpuset of v1 has no CPU, and takes no process until it has."""
    for name in _CPUSET:
        if (folder / name).exists() and not is_unified() and not (folder / name).read_text().strip():
            (folder / name).write_text((parent / name).read_text())


def _subtree(path: str) -> Iterator[Path]:
    """Every cgroup at or below ``path``, children first; those that vanish meanwhile may be missing."""
    for root in hierarchies():
        yield from [Path(folder) for folder, _, _ in os.walk(root / path, topdown=False)]


def processes(path: str) -> set[int]:
    """Who is in ``path`` or below, in any hierarchy."""
    found: set[int] = set()
    for folder in _subtree(path):
        with contextlib.suppress(OSError):  # gone in between
            found.update(int(word) for word in (folder / "cgroup.procs").read_text().split())
    return found - {0}


def remove(path: str) -> None:
    """Remove ``path`` with all below, once its processes have ended. Raises PeerFailed."""

    def gone() -> bool:
        for folder in _subtree(path):
            with contextlib.suppress(OSError):  # the kernel is still taking a process out
                folder.rmdir()
        return not list(_subtree(path))

    if not wait_until(gone, seconds=10):
        raise PeerFailed(f"cgroups stay: {', '.join(map(str, _subtree(path)))}")
