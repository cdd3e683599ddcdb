"""A store: opens the directory and joins its parts.

Several ``Store`` objects, in one process or many, may work on one directory at a time. Every call may block on the disk
or on a lock, so event loops make calls in threads. It must not contain logic of its own.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from imagecache.clock import Clock, SystemClock
from imagecache.oserrors import converting
from imagecache.store import oci_layout
from imagecache.store.blobs import Blobs
from imagecache.store.bundles import Bundles
from imagecache.store.check import Checker, Report, Verify
from imagecache.store.collect import KEEP_DOWNLOADS, Collected, Collector, bytes_on_disk
from imagecache.store.documents import BundleDocuments
from imagecache.store.downloads import Downloads
from imagecache.store.durable_files import fsync_directory, write_atomic
from imagecache.store.layers import Layers
from imagecache.store.leases import Leases
from imagecache.store.locks import locked
from imagecache.store.owner import make_directory
from imagecache.store.paths import StorePaths, files_below
from imagecache.store.provider import StoreLayerProvider
from imagecache.store.suitability import unsuitable


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes on disk, per kind."""

    layers: int
    chains: int
    blobs: int
    downloads: int
    staging: int
    trash: int
    quarantine: int

    @property
    def total(self) -> int:
        return sum(int(getattr(self, each.name)) for each in fields(self))


class Store:
    """One directory. Use ``open``; the constructor is for a directory that is a store already."""

    def __init__(self, root: Path, clock: Clock | None = None) -> None:
        self.paths = StorePaths(root)
        self.blobs = Blobs(self.paths)
        self.layers = Layers(self.paths)
        self.downloads = Downloads(self.paths)
        self.bundles = Bundles(self.paths, self.blobs)
        self.leases = Leases(self.paths)
        documents = BundleDocuments(self.bundles, keep=True)
        self.provider = StoreLayerProvider(self.paths, documents, self.leases)
        self._collector = Collector(self.paths, self.bundles, self.leases, clock or SystemClock())
        self._checker = Checker(self.paths, self.leases)

    @classmethod
    def open(cls, root: Path, clock: Clock | None = None) -> Self:
        """Open the store at ``root``, or make it. Raises StoreDenied, NoSpace, StoreError."""
        store = cls(root.absolute(), clock)
        store._create()
        return store

    @property
    def root(self) -> Path:
        return self.paths.root

    def collect(self, *, keep_downloads: dt.timedelta = KEEP_DOWNLOADS, dry_run: bool = False) -> Collected:
        """Remove what no bundle, live build or node needs. See ``Collector.collect``."""
        return self._collector.collect(keep_downloads=keep_downloads, dry_run=dry_run)

    def check(self, *, verify: Verify | None = None, quarantine: bool = False) -> Report:
        """Verify everything in the store. See ``Checker.check``."""
        return self._checker.check(verify=verify, quarantine=quarantine)

    def usage(self) -> Usage:
        kinds = {each.name: bytes_on_disk(files_below(self.root / each.name)) for each in fields(Usage)}
        return Usage(**kinds)

    def unsuitable(self) -> tuple[str, ...]:
        """Reasons why the directory or its filesystem is a bad store; empty: it is a good one. For ``doctor``."""
        return unsuitable(self.paths)

    def _create(self) -> None:
        """Make what is missing. All is fsynced each time: the process that made it may have been killed before that."""
        with converting(self.root):
            self.root.parent.mkdir(parents=True, exist_ok=True)
            for directory in self.paths.directories:
                make_directory(directory)
            with locked(self.paths.index_lock):  # of two processes that make a store, one writes its index
                if not self.paths.oci_layout.is_file():
                    # In this order: the marker says that the store is complete.
                    self.bundles.create_index()
                    write_atomic(self.paths.oci_layout, oci_layout.OCI_LAYOUT)
            for directory in (self.root.parent, *self.paths.directories):
                fsync_directory(directory)
