"""Set a bad file aside, so that nobody reads it again and a person can look at it.

A rename within the store: an open or mounted file is not disturbed. It must not judge what is bad, and must not delete.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from imagecache.oserrors import converting
from imagecache.store.files import fsync_directory
from imagecache.store.paths import StorePaths


def set_aside(paths: StorePaths, path: Path) -> Path | None:
    """Move ``path`` to the quarantine and return its new place; None when it is gone already. Raises StoreError."""
    flat = "-".join(path.relative_to(paths.root).parts)
    target = paths.quarantine / f"{flat}.{secrets.token_hex(4)}"
    with converting(path):
        try:
            path.rename(target)
        except FileNotFoundError:
            return None
        fsync_directory(path.parent)
        fsync_directory(paths.quarantine)
    return target
