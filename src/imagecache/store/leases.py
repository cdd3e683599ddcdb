"""Node leases: which layer images a node still needs, whatever becomes of the bundles.

A lease is an empty file named by holder and layer image. So holding is one ``open``, holding twice is harmless,
several processes need no lock among themselves, and no crash can spoil one. A hold is durable when it returns, unless
its holder asks for less; letting go is not, and a collection syncs it before it acts on it: a lease that comes back
after a power failure costs space and never a container. A holder compares ``of`` with what it has when it starts. It
must not know who holds or why.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from imagecache.digest import Digest
from imagecache.oserrors import converting
from imagecache.store.build_leases import BuildLease, layers_of
from imagecache.store.files import fsync_directory
from imagecache.store.locks import locked
from imagecache.store.model import LayerName
from imagecache.store.owner import make_directory
from imagecache.store.paths import StorePaths


class Leases:
    """Node leases, and the door to build leases. Thread-safe."""

    def __init__(self, paths: StorePaths) -> None:
        self._paths = paths
        self._durable: set[tuple[str, LayerName]] = set()
        self._mutex = threading.Lock()

    def build_lease(
        self, names: Iterable[LayerName] = (), digests: Iterable[Digest] = (), *, build: str = ""
    ) -> AbstractContextManager[BuildLease]:
        """What a build needs, for as long as the block or this process lasts. ``add`` takes more.

        ``build`` is the id of the bundle that is made; then ``wanted_by`` tells others the names.
        """
        return BuildLease(self._paths, names, digests, build=build)

    def wanted_by(self, build: str) -> tuple[LayerName, ...]:
        """Layer images that a build of this bundle may make or use, in its order. Raises StoreError, StoreDenied."""
        return layers_of(self._paths, build)

    def lease(self, holder: str, name: LayerName, *, durable: bool = True) -> None:
        """Keep a layer image until ``release``. It may be gone already: look after holding, not before."""
        self.lease_many(holder, (name,), durable=durable)

    def lease_many(self, holder: str, names: Iterable[LayerName], *, durable: bool = True) -> None:
        """Hold several with one sync, or without one for a holder that says it again when it starts.

        Raises StoreError, NoSpace, StoreDenied; ValueError for an impossible holder.
        """
        with self._mutex:
            new = [name for name in names if not self._known(holder, name)]
            if not new:
                return
            directory = self._paths.holder(holder)
            with locked(self._paths.collect_lock, shared=True), converting(directory):
                make_directory(directory)
                for name in new:
                    _touch(self._paths.node_lease(holder, name))
                if durable:
                    fsync_directory(directory)
                    fsync_directory(directory.parent)
            if durable:
                self._durable.update((holder, name) for name in new)

    def release(self, holder: str, name: LayerName) -> None:
        """Let go. Idempotent. Raises StoreError, StoreDenied."""
        path = self._paths.node_lease(holder, name)
        with self._mutex, converting(path):
            self._durable.discard((holder, name))
            path.unlink(missing_ok=True)

    def release_all(self, holder: str) -> None:
        """Let go of everything, for a holder that may never come back. Raises StoreError, StoreDenied."""
        for name in self.of(holder):
            self.release(holder, name)
        directory = self._paths.holder(holder)
        with locked(self._paths.collect_lock), converting(directory), suppress(FileNotFoundError):
            directory.rmdir()

    def of(self, holder: str) -> frozenset[LayerName]:
        """What one holder has."""
        return frozenset(name for owner, name in self._paths.node_lease_files() if owner == holder)

    def holders(self) -> frozenset[str]:
        """Everybody who has, or had, something."""
        return self._paths.holders()

    def held(self) -> dict[LayerName, set[str]]:
        """Everything that is held, and by whom."""
        holders: dict[LayerName, set[str]] = {}
        for holder, name in self._paths.node_lease_files():
            holders.setdefault(name, set()).add(holder)
        return holders

    def sync(self) -> None:
        """Make every release durable: before a released layer image goes, so that no lease on nothing comes back."""
        with converting(self._paths.node_leases):
            for directory in sorted(self._paths.node_leases.iterdir()):
                fsync_directory(directory)

    def _known(self, holder: str, name: LayerName) -> bool:
        """Held durably already; the look at the disk sees a release by another process of the same holder."""
        return (holder, name) in self._durable and self._paths.node_lease(holder, name).exists()


def _touch(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
