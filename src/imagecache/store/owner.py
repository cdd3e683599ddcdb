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
    if path.is_symlink():
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        hand_over(fd, path.parent)
    finally:
        os.close(fd)


def hand_over(fd: int, directory: Path) -> None:
    """A file or directory that root has made in somebody's directory becomes theirs. Raises OSError.

    Not one with a second name: that may be anything of root's that they have linked here.
    """
    if os.geteuid() != 0:
        return
    found, owner = os.fstat(fd), directory.stat()
    ours = found.st_uid == 0 and (found.st_nlink == 1 or stat.S_ISDIR(found.st_mode))
    if ours and owner.st_uid:
        os.fchown(fd, owner.st_uid, owner.st_gid)
