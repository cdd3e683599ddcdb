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
from imagecache.store.packed_blocks import remove_all
from imagecache.store.paths import StorePaths


class Reserve:
    """``share`` (0 to 1) of the filesystem of ``directory``, which is a store."""

    def __init__(self, directory: Path, share: float) -> None:
        self._directory = directory
        self._share = share

    def check(self, size: int) -> None:
        """Whether ``size`` more bytes leave the reserve free, without compressed blocks if need be.

        Raises NoSpace, StoreError.
        """
        free, kept = self._look()
        if free - size < kept:
            remove_all(StorePaths(self._directory))
            free, kept = self._look()
        if free - size < kept:
            raise NoSpace(
                f"{self._directory} has {free // MIB} MiB free, of which {kept // MIB} MiB (store_reserve: "
                f"{self._share:g} of the disk) are not for image caches",
                hint="free space on that filesystem, or set store_reserve lower",
            )

    def _look(self) -> tuple[int, int]:
        """Bytes that are free, and that have to be."""
        with converting(self._directory):
            disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize, int(disk.f_blocks * disk.f_frsize * self._share)
