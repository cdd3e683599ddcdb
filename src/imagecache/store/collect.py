"""Collection: remove what no bundle, build or lease needs.

A process that adds a reference (a lease, a bundle) holds the collect lock shared meanwhile; a collection holds it
exclusively while it reads all references and moves the rest to ``trash/``. A rename is quick, so nobody waits for long;
unlinking large files comes after the lock. A bundle that cannot be read may need anything, so then nothing is removed.
It must not remove foreign files: ``check`` reports those.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from imagecache.clock import Clock
from imagecache.digest import Digest
from imagecache.oserrors import converting
from imagecache.store.build_leases import live_builds
from imagecache.store.bundles import Bundles
from imagecache.store.layer_name import LayerName
from imagecache.store.leases import Leases
from imagecache.store.locks import abandoned, locked
from imagecache.store.packed_blocks import unneeded
from imagecache.store.paths import StorePaths, files_below

KEEP_DOWNLOADS = dt.timedelta(days=7)
"""How long a partial download is kept for a build that resumes it."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did; with ``dry_run``, what it would do."""

    layers: tuple[LayerName, ...]
    blobs: tuple[Digest, ...]
    downloads: tuple[Digest, ...]
    temporaries: int
    """Files of writers that died."""
    freed: int
    """Bytes on disk."""
    kept: dict[LayerName, tuple[str, ...]]
    """Every layer image that stays, with each reason: ``bundle imc-...``, ``build 4711-...``, ``leased by ...``."""


@dataclass(slots=True)
class _Needed:
    """Everything that is needed, and the reasons."""

    layers: dict[LayerName, list[str]] = field(default_factory=dict)
    digests: set[Digest] = field(default_factory=set)
    """Documents, and compressed layers that a live build works on."""
    served: set[Digest] = field(default_factory=set)
    """Compressed layers whose layer image is in a bundle: their downloads are not needed any longer."""

    def layer(self, name: LayerName, reason: str) -> None:
        self.layers.setdefault(name, []).append(reason)


class Collector:
    def __init__(self, paths: StorePaths, bundles: Bundles, leases: Leases, clock: Clock) -> None:
        self._paths = paths
        self._bundles = bundles
        self._leases = leases
        self._clock = clock

    def collect(self, *, keep_downloads: dt.timedelta = KEEP_DOWNLOADS, dry_run: bool = False) -> Collected:
        """Remove what no bundle, live build or lease needs.

        Raises BlobNotFound and StoreCorrupt when a bundle cannot be read (nothing is removed then), StoreError.
        """
        sweep = _Sweep(self._paths, dry_run=dry_run)
        with locked(self._paths.collect_lock):
            needed = self._needed()
            # Before anything is removed: else a power failure could undo a release, and leave a lease on nothing.
            self._leases.sync()
            present = [(path, name) for path, name in self._paths.layer_files() if name is not None]
            layers = [name for path, name in present if name not in needed.layers and sweep.take(path)]
            blobs = [
                digest
                for path, digest in self._paths.blob_files()
                if digest is not None and digest not in needed.digests and sweep.take(path)
            ]
            downloads = [digest for path, digest in self._stale(needed, keep_downloads) if sweep.take_abandoned(path)]
            temporaries = sum(sweep.take_abandoned(path) for path in self._temporaries())
            # Lock files, too: else one for each layer would stay for ever. ``open_locked`` allows for it.
            for path in self._paths.layer_locks():
                sweep.take_abandoned(path)
        sweep.empty_trash()  # without the lock: unlinking a large file may take seconds
        for directory in unneeded(self._paths, needed.layers):  # now: whether they may stay depends on what is free
            sweep.take_all(directory)
        sweep.empty_trash()
        kept = {name: tuple(sorted(needed.layers[name])) for _path, name in present if name in needed.layers}
        return Collected(tuple(layers), tuple(blobs), tuple(downloads), temporaries, sweep.freed, kept)

    def _needed(self) -> _Needed:
        needed = _Needed()
        for stored in self._bundles.stored():
            needed.digests |= stored.blobs
            for name in stored.document.layer_names():
                needed.layer(name, f"bundle {stored.document.id}")
            needed.served |= {layer.blob.digest for image in stored.document.images for layer in image.layers}
        for build, names, digests in live_builds(self._paths):
            needed.digests |= digests
            for name in names:
                needed.layer(name, f"build {build}")
        for name, holders in self._leases.leased().items():
            for holder in holders:
                needed.layer(name, f"leased by {holder}")
        return needed

    def _stale(self, needed: _Needed, keep: dt.timedelta) -> Iterator[tuple[Path, Digest]]:
        """Downloads whose layer is in a bundle, or that no build has resumed for a long time."""
        oldest = (self._clock.now() - keep).timestamp()
        for path, digest in self._paths.download_files():
            with suppress(FileNotFoundError):
                if digest not in needed.digests and (digest in needed.served or path.stat().st_mtime < oldest):
                    yield path, digest

    def _temporaries(self) -> Iterator[Path]:
        """Files being written, or left by writers that died."""
        yield from sorted(self._paths.staging.glob("*.tmp"))
        for directory in (self._paths.root, self._paths.caches):
            yield from sorted(directory.glob(".*.tmp"))


class _Sweep:
    """Moves files to the trash, and counts their bytes."""

    def __init__(self, paths: StorePaths, *, dry_run: bool) -> None:
        self.freed = 0
        self._paths = paths
        self._dry_run = dry_run

    def take(self, path: Path) -> bool:
        """False when the file has disappeared meanwhile."""
        with converting(path):
            try:
                size = _on_disk(path)
                if not self._dry_run:
                    path.rename(self._paths.trash / secrets.token_hex(16))  # a file that is open or mounted stays valid
            except FileNotFoundError:
                return False
        self.freed += size
        return True

    def take_abandoned(self, path: Path) -> bool:
        """Take it, unless a process has it locked."""
        with converting(path), abandoned(path) as free:
            return free and self.take(path)

    def take_all(self, directory: Path) -> None:
        """Every file of a directory, and the directory, unless a writer has put another one there meanwhile."""
        for path in files_below(directory):
            self.take(path)
        if not self._dry_run:
            with suppress(OSError):
                directory.rmdir()

    def empty_trash(self) -> None:
        """Unlink what this collection took, and what a killed one left."""
        with converting(self._paths.trash):
            for path in () if self._dry_run else list(self._paths.trash.iterdir()):
                path.unlink(missing_ok=True)


def _on_disk(path: Path) -> int:
    return os.lstat(path).st_blocks * 512  # the unit of st_blocks, on every filesystem


def bytes_on_disk(paths: Iterable[Path]) -> int:
    """Allocated bytes of these files, without those that disappear meanwhile."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += _on_disk(path)
    return total
