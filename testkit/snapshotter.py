"""A snapshotter with everything around it in memory, and a root on the disk: ``SnapshotterRig``.

Restart it, reboot the node below it, lose its database; ask it what containerd would ask. ``RecordingObserver`` is the
fake ``Observer``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from imagecache.digest import ChainID, DiffID, Digest
from imagecache.snapshotter.dependencies import ServedLayer
from imagecache.snapshotter.mounts import Mount
from imagecache.snapshotter.settings import SnapshotterSettings
from imagecache.snapshotter.snapshot import REF_LABEL, Info, Kind, LayerExists
from imagecache.snapshotter.snapshotter import Snapshotter
from testkit.clock import FakeClock
from testkit.mounts import FakeMounter
from testkit.store import MemoryLayers

SETTINGS = SnapshotterSettings(lock_wait=0.2, clean_again=0.01)


def mounts_for(prepared: tuple[Mount, ...] | LayerExists) -> tuple[Mount, ...]:
    """What ``prepare`` returned for a writable snapshot. Fails for a layer that needs no unpack."""
    assert not isinstance(prepared, LayerExists), f"not a snapshot to write to: {prepared}"
    return prepared


class RecordingObserver:
    """The fake ``snapshotter.dependencies.Observer``. ``meanwhile``: what another call does during ``used``."""

    def __init__(self) -> None:
        self.reads: list[tuple[Path, ...]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.lookups: list[bool] = []
        self.releases = 0

    def used(self, layers: Sequence[Path]) -> None:
        self.reads.append(tuple(layers))
        self.meanwhile()

    def looked_up(self, *, found: bool) -> None:
        self.lookups.append(found)

    def released(self) -> None:
        self.releases += 1


class SnapshotterRig:
    """One node: ``snapshotter`` is the running one."""

    def __init__(
        self, root: Path, settings: SnapshotterSettings = SETTINGS, *, layers: MemoryLayers | None = None
    ) -> None:
        self.root = root
        self.settings = settings
        self.layers = layers or MemoryLayers()
        self.mounter = FakeMounter()
        self.clock = FakeClock()
        self.observer = RecordingObserver()
        self.snapshotter = self._open()
        self._sequence = 0

    def restart(self) -> None:
        self.snapshotter.close()
        self.snapshotter = self._open()

    def reboot(self) -> None:
        self.mounter.reboot()
        self.restart()

    def lose_database(self) -> None:
        self.snapshotter.close()
        for path in self.root.glob("metadata.db*"):
            path.unlink()
        self.snapshotter = self._open()

    def image(self, *names: str) -> list[ServedLayer]:
        """An image whose layers are served, bottom first."""
        layers: list[ServedLayer] = []
        for name in names:
            parent = layers[-1].chain_id if layers else None
            layers.append(self.layers.add(DiffID(Digest.sha256(name.encode())), parent))
        return layers

    def key(self, words: str, namespace: str = "k8s.io") -> str:
        """A key as containerd's metadata layer makes it."""
        self._sequence += 1
        return f"{namespace}/{self._sequence}/{words}"

    def unpack(self, chain: ChainID, parent: str = "", namespace: str = "k8s.io") -> str | None:
        """What containerd does for a layer: the name of the snapshot that it adopts; None: it must pull.

        After ALREADY_EXISTS it lists with one filter and takes the first that is committed and fits
        (core/metadata/snapshot.go, createSnapshot; the same from 1.6 to 2.4).
        """
        key = self.key(f"extract-1-abcd {chain}", namespace)
        if isinstance(self.snapshotter.prepare(key, parent, {REF_LABEL: chain}), LayerExists):
            found = self.snapshotter.walk([f'labels."{REF_LABEL}"=={chain},parent=="{parent}"'])
            fitting = [i for i in found if i.kind is Kind.COMMITTED and i.labels[REF_LABEL] == chain]
            return next(info.name for info in fitting if info.parent == parent)
        self.snapshotter.remove(key)
        return None

    def pull(self, image: Sequence[ServedLayer], namespace: str = "k8s.io") -> list[str]:
        """Names of the snapshots of a served image; raises LookupError for a layer that must be pulled."""
        names: list[str] = []
        for layer in image:
            name = self.unpack(layer.chain_id, names[-1] if names else "", namespace)
            if name is None:
                raise LookupError(layer.chain_id)
            names.append(name)
        return names

    def commit(self, words: str, parent: str = "", labels: dict[str, str] | None = None) -> str:
        """An ordinary committed snapshot, as a pull makes it."""
        key, name = self.key(f"extract-2-abcd {words}"), self.key(words)
        self.snapshotter.prepare(key, parent, labels)
        self.snapshotter.commit(name, key, labels)
        return name

    def container(self, parent: str) -> tuple[Mount, ...]:
        return mounts_for(self.snapshotter.prepare(self.key("container"), parent))

    @property
    def names(self) -> list[str]:
        return [info.name for info in self.infos]

    @property
    def infos(self) -> list[Info]:
        return self.snapshotter.walk()

    @property
    def held(self) -> set[str]:
        return {str(name) for names in self.layers.leases.values() for name in names}

    def _open(self) -> Snapshotter:
        return Snapshotter(self.root, self.layers, self.mounter, self.clock, self.settings, self.observer)
