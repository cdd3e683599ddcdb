"""Whose the files of a store are: the owner's of the directory that they are in, whoever makes them.

The controller of a cluster is nobody, the agents of its nodes are root, and in a directory that all of them share each
must read and remove what the others write. It must not take anything from anybody but root.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def make_directory(path: Path) -> None:
    """For its owner alone; one that is there already, or a link to one, will do. Raises OSError."""
    path.mkdir(0o700, exist_ok=True)
    if _owner(os.lstat(path), path.parent) is None:
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        hand_over(fd, path.parent)
    finally:
        os.close(fd)


def hand_over(fd: int, directory: Path) -> None:
    """A file or directory that root has made in somebody's directory becomes theirs. Raises OSError."""
    owner = _owner(os.fstat(fd), directory)
    if owner is not None:
        os.fchown(fd, owner.st_uid, owner.st_gid)


def _owner(found: os.stat_result, directory: Path) -> os.stat_result | None:
    """Who should have it, if that is not so yet and we may say so.

    Nothing with a second name is given away: that may be anything of root's that somebody has linked here.
    """
    ours = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
    if not ours or found.st_uid != 0 or os.geteuid() != 0:
        return None
    owner = os.stat(directory)  # noqa: PTH116 - at every lock, in a third of the time of Path.stat
    return owner if owner.st_uid else None
