"""What of the store's disk stays free, whoever writes to it.

A full disk stops more than the build that fills it: documents, statuses and leases are written there, too. It must not
measure what the store itself takes.
"""

from __future__ import annotations

import os
from pathlib import Path

from imagecache.errors import NoSpace
from imagecache.limits import MIB
from imagecache.oserrors import converting


class Reserve:
    """``share`` (0 to 1) of the filesystem of ``directory``."""

    def __init__(self, directory: Path, share: float) -> None:
        self._directory = directory
        self._share = share

    def check(self, size: int) -> None:
        """Whether ``size`` more bytes leave the reserve free. Raises NoSpace, StoreError."""
        with converting(self._directory):
            disk = os.statvfs(self._directory)
        free, kept = disk.f_bavail * disk.f_frsize, int(disk.f_blocks * disk.f_frsize * self._share)
        if free - size < kept:
            raise NoSpace(
                f"{self._directory} has {free // MIB} MiB free, of which {kept // MIB} MiB (store_reserve: "
                f"{self._share:g} of the disk) are not for image caches",
                hint="free space on that filesystem, or set store_reserve lower",
            )
