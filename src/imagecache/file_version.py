"""Whether a file has changed since it was read, by one stat.

Kubernetes, cert-manager and our own store replace files whole (rename), which changes the inode; the store also gives
every version of its index a later mtime (``store.bundles``). Take the version *before* reading: a change in between is
then seen next time. It must not read files.
"""

from __future__ import annotations

import os
from pathlib import Path

FileVersion = tuple[int, int, int]
"""mtime in nanoseconds, inode, size in bytes."""


def file_version(path: str | Path) -> FileVersion | None:
    """Changes when the file does; None while it is missing or cannot be looked at."""
    try:
        found = os.stat(path)  # noqa: PTH116 - for each layer of each container's start, in a third of Path.stat's time
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
