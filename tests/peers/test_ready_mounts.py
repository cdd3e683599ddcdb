"""What the snapshotter knows of its mounts, on the kernel's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.clock import SystemClock
from imagecache.digest import DiffID, Digest
from imagecache.node import syscalls
from imagecache.node.mounter import KernelMounter
from imagecache.node.probe_kernel import write_probe_image
from imagecache.snapshotter.snapshotter import Snapshotter
from imagecache.testing.snapshotter import SETTINGS, SnapshotterRig
from imagecache.testing.store import MemoryLayers


class KernelRig(SnapshotterRig):
    """With layer images that are real, mounted by the kernel."""

    def _open(self) -> Snapshotter:
        return Snapshotter(self.root, self.layers, KernelMounter(), SystemClock(), SETTINGS, self.memory)

    def served(self, words: bytes) -> str:
        """The name of a snapshot of one layer."""
        path = self.root.parent / f"{words.decode()}.erofs"
        if not path.exists():
            write_probe_image(path, words)
        layer = self.layers.add(DiffID(Digest.sha256(words)), path=path)
        return self.pull([layer])[0]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[KernelRig]:
    rig = KernelRig(tmp_path / "root", layers=MemoryLayers())
    yield rig
    rig.snapshotter.close()
    for mountpoint in (rig.root / "m").iterdir():
        KernelMounter().unmount(mountpoint)


def test_known_mounts_tell_of_the_use_as_others_do(rig: KernelRig) -> None:
    mounts = rig.snapshotter.prepare("k8s.io/9/container", rig.served(b"base"))
    rig.memory.heard.clear()

    assert rig.snapshotter.ready_mounts("k8s.io/9/container") == mounts
    assert [len(files) for files in rig.memory.heard] == [1]


def test_a_mount_that_was_taken_away_is_not_known_and_made_again(rig: KernelRig) -> None:
    mounts = rig.snapshotter.prepare("k8s.io/9/container", rig.served(b"base"))
    (mountpoint,) = (rig.root / "m").iterdir()
    syscalls.unmount(str(mountpoint))

    assert rig.snapshotter.ready_mounts("k8s.io/9/container") is None
    assert rig.snapshotter.mounts("k8s.io/9/container") == mounts
    assert [path.name for path in mountpoint.iterdir()]
    rig.snapshotter.prepare("k8s.io/10/other", rig.snapshotter.stat("k8s.io/9/container").parent)
    assert rig.snapshotter.ready_mounts("k8s.io/10/other") is not None


def test_a_container_is_prepared_at_once_while_all_below_is_mounted(rig: KernelRig) -> None:
    name = rig.served(b"base")
    rig.snapshotter.prepare("k8s.io/9/container", name)
    rig.snapshotter.make_ready()
    rig.memory.heard.clear()

    mounts = rig.snapshotter.prepare_at_once("k8s.io/10/container", name)

    assert (
        mounts == rig.snapshotter.mounts("k8s.io/10/container") == rig.snapshotter.ready_mounts("k8s.io/10/container")
    )
    assert len(rig.memory.heard) == 3
    assert len({*rig.memory.heard}) == 1
    (mountpoint,) = (rig.root / "m").iterdir()
    syscalls.unmount(str(mountpoint))
    assert rig.snapshotter.prepare_at_once("k8s.io/11/container", name) is None


def test_a_layer_that_nobody_needs_is_forgotten_with_its_mount(rig: KernelRig) -> None:
    name = rig.served(b"base")
    rig.snapshotter.prepare("k8s.io/9/container", name)
    rig.snapshotter.remove("k8s.io/9/container")
    rig.snapshotter.remove(name)
    rig.snapshotter.cleanup()

    assert list((rig.root / "m").iterdir()) == []
    again = rig.served(b"base")
    assert rig.snapshotter.prepare("k8s.io/11/container", again) == rig.snapshotter.mounts("k8s.io/11/container")
