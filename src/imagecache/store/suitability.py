"""Whether a directory can be a store: by trying what a store needs.

``doctor`` shows the result. It must not judge by a filesystem's name what can be tried, and must leave nothing behind.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from imagecache.errors import StoreBusy
from imagecache.oserrors import converting
from imagecache.store.durable_files import StagedFile
from imagecache.store.locks import open_locked
from imagecache.store.paths import StorePaths

_MEMORY = {"tmpfs", "ramfs", "rootfs"}


def unsuitable(paths: StorePaths) -> tuple[str, ...]:
    """Reasons why this directory is a bad store; sentences without a full stop. Raises StoreDenied, NoSpace."""
    return tuple(_reasons(paths))


def unsuitable_for_nodes(paths: StorePaths) -> tuple[str, ...]:
    """The same of the directory in which a node writes that shares the store, and only reads that. Raises as above."""
    with StagedFile(paths.collect_lock.parent) as probe:
        if _locks_exclude(probe.path):
            return ()
    return (f"flock does not work below {paths.written_by_nodes}, so a collection could remove what this node uses",)


def _reasons(paths: StorePaths) -> Iterator[str]:
    mode = paths.root.stat().st_mode & 0o777
    if mode & 0o077:
        yield f"{paths.root} has mode {mode:04o}, so other users can read private images: run chmod 0700 on it"
    with StagedFile(paths.staging) as probe:
        if not _locks_exclude(probe.path):
            yield f"flock does not work below {paths.root}, so two processes could damage each other's files"
        if not _hard_links(probe.path):
            yield f"hard links do not work below {paths.root}, so layer images cannot be committed"
    kind = filesystem_type(paths.root)
    if kind in _MEMORY:
        yield f"{paths.root} is on a {kind}: a reboot deletes everything"


def _locks_exclude(locked: Path) -> bool:
    try:
        os.close(open_locked(locked, wait=False, create=0))
    except StoreBusy:
        return True
    return False


def _hard_links(path: Path) -> bool:
    second = path.parent / f"{secrets.token_hex(16)}.tmp"
    try:
        os.link(path, second)
    except OSError:
        return False
    second.unlink()
    return True


def filesystem_type(path: Path) -> str:
    """The type of the mount that ``path`` is on, as in /proc/self/mountinfo (proc_pid_mountinfo(5)); "" if unknown."""
    with converting(path):
        device = path.stat().st_dev
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return ""
