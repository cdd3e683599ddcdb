"""The one table from OSError to our errors.

It is on the ground floor because every package that touches files needs it. It must not decide what to do next beyond
the hint.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagecache.errors import NoSpace, StoreDenied, StoreError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # EFBIG: RLIMIT_FSIZE, or the filesystem's largest file
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}  # EPERM: also an immutable file (chattr +i)


def from_os_error(error: OSError, what: str | Path) -> StoreError:
    """Our error for a failed file operation on ``what`` (a path, or words that name the file)."""
    words = f"{what}: {error.strerror or error}"
    if error.errno in _NO_SPACE:
        return NoSpace(words, hint="free space on that filesystem, or use another store with --store")
    if error.errno in _DENIED:
        return StoreDenied(words, hint="run as root, or use a store of your own with --store")
    return StoreError(words, hint="check the disk and the path")


@contextmanager
def converting(what: str | Path) -> Iterator[None]:
    """An OSError of the block becomes our error, chained."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, what) from error
