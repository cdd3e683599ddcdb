"""Move a corrupt file aside: nothing reads it again, and a person can look at it.

It is a rename within the store, so an open or mounted file is not disturbed. It must not decide what is corrupt, and
must not delete.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from imagecache.oserrors import converting
from imagecache.store.durable_files import fsync_directory
from imagecache.store.paths import StorePaths


def set_aside(paths: StorePaths, path: Path) -> Path | None:
    """Move ``path`` to the quarantine and return its new path; None when it does not exist. Raises StoreError."""
    flat = "-".join(path.relative_to(paths.root).parts)
    target = paths.quarantine / f"{flat}.{secrets.token_hex(4)}"  # the same file may become corrupt twice
    with converting(path):
        try:
            path.rename(target)
        except FileNotFoundError:
            return None
        # Both: else a power failure could bring the corrupt file back under its valid name.
        fsync_directory(path.parent)
        fsync_directory(paths.quarantine)
    return target
