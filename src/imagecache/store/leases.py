"""Node leases: which layer images a node needs, whether or not a bundle still has them.

A lease is an empty file named by holder and layer image. So taking one is one ``open``, taking it twice is harmless,
several processes need no lock among themselves, and no crash can damage one. A lease is durable when ``lease`` returns,
unless its holder asks for less. A release is not: a collection syncs releases before it acts on them, and a lease that
a power failure brings back costs space and never a container. A holder compares ``of`` with its own records when it
starts. It must not know who holds a lease or why.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from imagecache.digest import Digest
from imagecache.oserrors import converting
from imagecache.store.build_leases import BuildLease, builds_with, layers_of
from imagecache.store.durable_files import fsync_directory
from imagecache.store.layer_name import LayerName
from imagecache.store.locks import locked
from imagecache.store.owner import make_directory
from imagecache.store.paths import StorePaths


class Leases:
    """Node leases; also makes build leases. Thread-safe."""

    def __init__(self, paths: StorePaths) -> None:
        self._paths = paths
        self._durable: set[tuple[str, LayerName]] = set()
        self._mutex = threading.Lock()

    def build_lease(
        self, names: Iterable[LayerName] = (), digests: Iterable[Digest] = (), *, build: str = ""
    ) -> AbstractContextManager[BuildLease]:
        """Keep what a build needs until the block or this process ends. ``add`` extends it.

        ``build`` is the id of the bundle that is built: ``wanted_by`` finds the names by it.
        """
        return BuildLease(self._paths, names, digests, build=build)

    def wanted_by(self, build: str) -> tuple[LayerName, ...]:
        """Layer images that a running build of this bundle may need, in its order. Raises StoreError, StoreDenied."""
        return layers_of(self._paths, build)

    def builds_with(self, name: LayerName) -> tuple[str, ...]:
        """The builds that may need a layer image, as they were named. Raises StoreError, StoreDenied."""
        return builds_with(self._paths, name)

    def lease(self, holder: str, name: LayerName, *, durable: bool = True) -> None:
        """Keep a layer image until ``release``. Check that it exists after this call, not before."""
        self.lease_many(holder, (name,), durable=durable)

    def lease_many(self, holder: str, names: Iterable[LayerName], *, durable: bool = True) -> None:
        """Lease several with one sync; without any for a holder that renews its leases when it starts.

        Raises StoreError, NoSpace, StoreDenied; ValueError for an impossible holder.
        """
        with self._mutex:
            new = [name for name in names if not self._known(holder, name)]
            if not new:
                return
            directory = self._paths.holder(holder)
            # Shared: a collection sees these leases, or has ended before their holder checks that the files exist.
            with locked(self._paths.collect_lock, shared=True), converting(directory):
                make_directory(directory)
                for name in new:
                    _touch(self._paths.node_lease(holder, name))
                if durable:
                    fsync_directory(directory)
                    fsync_directory(directory.parent)  # the directory itself may be new
            if durable:
                self._durable.update((holder, name) for name in new)

    def release(self, holder: str, name: LayerName) -> None:
        """End a lease. Idempotent. Raises StoreError, StoreDenied."""
        path = self._paths.node_lease(holder, name)
        with self._mutex, converting(path):
            # First: if the unlink fails, the next ``lease`` must not count on a file that may be half removed.
            self._durable.discard((holder, name))
            path.unlink(missing_ok=True)

    def release_all(self, holder: str) -> None:
        """End all leases of a holder that may never return. Raises StoreError, StoreDenied."""
        for name in self.of(holder):
            self.release(holder, name)
        directory = self._paths.holder(holder)
        # Exclusive: no ``lease_many`` is between making this directory and a file in it.
        with locked(self._paths.collect_lock), converting(directory), suppress(FileNotFoundError):
            directory.rmdir()

    def of(self, holder: str) -> frozenset[LayerName]:
        """Layer images that one holder has leased."""
        return frozenset(name for owner, name in self._paths.node_lease_files() if owner == holder)

    def holders(self) -> frozenset[str]:
        """Every holder that has, or had, a lease."""
        return self._paths.holders()

    def leased(self) -> dict[LayerName, set[str]]:
        """Every leased layer image, with its holders."""
        holders: dict[LayerName, set[str]] = {}
        for holder, name in self._paths.node_lease_files():
            holders.setdefault(name, set()).add(holder)
        return holders

    def sync(self) -> None:
        """Make every release durable. Call it before a released layer image is removed."""
        with converting(self._paths.node_leases):
            for directory in sorted(self._paths.node_leases.iterdir()):
                fsync_directory(directory)

    def _known(self, holder: str, name: LayerName) -> bool:
        """Leased durably already. Checks the file: another process of the same holder may have released it."""
        return (holder, name) in self._durable and self._paths.node_lease(holder, name).exists()


def _touch(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
