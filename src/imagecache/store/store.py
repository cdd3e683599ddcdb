"""A store: opens the directory and joins its parts.

Several ``Store`` objects, in one process or many, may work on one directory at a time. Every call may block on the disk
or on a lock, so event loops make calls in threads. It must not contain logic of its own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from imagecache.clock import Clock, SystemClock
from imagecache.oserrors import converting
from imagecache.store import oci_layout
from imagecache.store.blobs import Blobs
from imagecache.store.bundle_document import Bundle
from imagecache.store.bundles import Bundles
from imagecache.store.check import Checker, Proofs, Report
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
from imagecache.store.served_bundles import CheckedBundles, IndexedBundles
from imagecache.store.suitability import unsuitable, unsuitable_for_nodes


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes on disk, per kind."""

    layers: int
    chains: int
    blobs: int
    downloads: int
    packed: int
    staging: int
    trash: int
    quarantine: int

    @property
    def total(self) -> int:
        return sum(int(getattr(self, each.name)) for each in fields(self))


class Store:
    """One directory. Use ``open``; the constructor is for a directory that is a store already."""

    def __init__(
        self,
        root: Path,
        clock: Clock | None = None,
        *,
        leases: Path | None = None,
        checked: CheckedBundles | None = None,
    ) -> None:
        """``checked``: what is served of a store whose documents anybody may have written; None: all of it."""
        self.paths = StorePaths(root, leases)
        self.blobs = Blobs(self.paths, quarantine=checked is None)
        self.layers = Layers(self.paths)
        self.downloads = Downloads(self.paths)
        self.bundles = Bundles(self.paths, self.blobs)
        self.leases = Leases(self.paths)
        documents = BundleDocuments(self.bundles, keep=True)
        self._checked = checked
        self.provider = StoreLayerProvider(self.paths, checked or IndexedBundles(documents), self.leases)
        self._collector = Collector(self.paths, self.bundles, self.leases, clock or SystemClock())
        self._checker = Checker(self.paths, self.leases)

    @classmethod
    def open(cls, root: Path, clock: Clock | None = None, *, leases: Path | None = None) -> Self:
        """Open the store at ``root``, or make it. Raises StoreDenied, NoSpace, StoreError.

        ``leases``: the directory in which nodes write that share it.
        """
        store = cls(root.absolute(), clock, leases=leases)
        store._create()
        return store

    @classmethod
    def open_shared(cls, root: Path, clock: Clock | None = None, *, leases: Path | None = None) -> Self:
        """The store of a controller, for a node that shares the directory. What it serves, ``serve`` says.

        With ``leases`` the node writes there and nowhere else: the store may be mounted read-only, and need not exist
        yet. Raises StoreDenied, NoSpace, StoreError.
        """
        store = cls(root.absolute(), clock, leases=leases, checked=CheckedBundles())
        if store.paths.is_shared:
            store._create_for_nodes()
        else:
            store._create()
        return store

    def serve(self, bundles: Iterable[Bundle]) -> None:
        """Of a shared store: serve these bundles and no others. Their documents are checked."""
        if self._checked is not None:
            self._checked.replace(bundles)

    @property
    def root(self) -> Path:
        return self.paths.root

    def collect(self, *, keep_downloads: dt.timedelta = KEEP_DOWNLOADS, dry_run: bool = False) -> Collected:
        """Remove what no bundle, live build or node needs. See ``Collector.collect``."""
        return self._collector.collect(keep_downloads=keep_downloads, dry_run=dry_run)

    def check(self, *, proofs: Proofs | None = None, quarantine: bool = False) -> Report:
        """Verify everything in the store. See ``Checker.check``."""
        return self._checker.check(proofs=proofs, quarantine=quarantine)

    def usage(self) -> Usage:
        kinds = {each.name: bytes_on_disk(files_below(self.root / each.name)) for each in fields(Usage)}
        return Usage(**kinds)

    def unsuitable(self) -> tuple[str, ...]:
        """Reasons why the directory or its filesystem is a bad store; empty: it is a good one. For ``doctor``."""
        return unsuitable(self.paths)

    def unsuitable_for_nodes(self) -> tuple[str, ...]:
        """As ``unsuitable``, for a node that only reads the store and writes elsewhere."""
        return unsuitable_for_nodes(self.paths)

    def _create(self) -> None:
        """Make what is missing. All is fsynced each time: the process that made it may have been killed before that."""
        with converting(self.root):
            self.root.parent.mkdir(parents=True, exist_ok=True)
            make_directory(self.root)
            self._create_for_nodes()
            for directory in self.paths.directories:
                make_directory(directory)
            with locked(self.paths.index_lock):  # of two processes that make a store, one writes its index
                if not self.paths.oci_layout.is_file():
                    # In this order: the marker says that the store is complete.
                    self.bundles.create_index()
                    write_atomic(self.paths.oci_layout, oci_layout.OCI_LAYOUT)
            for directory in (self.root.parent, *self.paths.directories):
                fsync_directory(directory)

    def _create_for_nodes(self) -> None:
        """The directories in which nodes write: the store's owner's, whoever makes them first."""
        first, *rest = self.paths.directories_of_nodes
        with converting(first):
            first.parent.mkdir(parents=True, exist_ok=True)
            make_directory(first, self.root if self.paths.is_shared and self.root.is_dir() else None)
            for directory in rest:
                make_directory(directory)
            for directory in (first.parent, first, *rest):
                fsync_directory(directory)
