"""The owner of a store's files: always the owner of their directory, also when root makes them.

A cluster's controller runs as nobody and its agents as root. In a directory that all of them share, each must be able
to read and remove what the others write. It must not change the owner of a file that is not root's.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def make_directory(path: Path, like: Path | None = None) -> None:
    """Make a directory for its owner alone, unless it, or a link to one, exists. Raises OSError.

    The owner is that of the directory ``like``, of its parent without one.
    """
    like = like or path.parent
    path.mkdir(0o700, exist_ok=True)
    if _owner(os.lstat(path), like) is None:
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        hand_over(fd, like)
    finally:
        os.close(fd)


def hand_over(fd: int, directory: Path) -> None:
    """Give a file that root has made in another user's directory to that user. Raises OSError."""
    owner = _owner(os.fstat(fd), directory)
    if owner is not None:
        os.fchown(fd, owner.st_uid, owner.st_gid)


def _owner(found: os.stat_result, directory: Path) -> os.stat_result | None:
    """The owner that it should get; None: it has the right one, or we may not change it."""
    # A regular file with a second link is left alone: it may be any file of root's that a user has linked here.
    ours = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
    if not ours or found.st_uid != 0 or os.geteuid() != 0:
        return None
    owner = os.stat(directory)  # noqa: PTH116 - at every lock, in a third of the time of Path.stat
    return owner if owner.st_uid else None
