"""What the snapshotter knows of its mounts, on the kernel's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import GRPCError

from imagecache._proto.containerd import snapshots_pb2 as pb
from imagecache.digest import DiffID, Digest
from imagecache.host import syscalls
from imagecache.host.mounter import KernelMounter, OnLoop
from imagecache.host.probe_kernel import write_probe_image
from imagecache.snapshotter.grpc_server import serve
from imagecache.snapshotter.grpc_service import SERVICE
from imagecache.snapshotter.snapshot import REF_LABEL
from imagecache.snapshotter.snapshotter import Snapshotter
from imagecache.store.layers import ServedLayer
from testkit.clock import AskingClock
from testkit.peers.processes import wait_until
from testkit.snapshotter import SETTINGS, SnapshotterRig
from testkit.store import MemoryLayers


class KernelRig(SnapshotterRig):
    """With layer images that are real, mounted by the kernel."""

    loop = False
    """What a cache asks for."""

    def _open(self) -> Snapshotter:
        mounter = KernelMounter(on_loop=OnLoop(lambda _: self.loop, lambda: self.loop))
        return Snapshotter(self.root, self.layers, mounter, self.clock, self.settings, self.observer)

    @property
    def mounted(self) -> int:
        return sum(path.is_mount() for path in (self.root / "m").iterdir())

    def layer(self, words: bytes) -> ServedLayer:
        path = self.root.parent / f"{words.decode()}.erofs"
        if not path.exists():
            write_probe_image(path, words)
        return self.layers.add(DiffID(Digest.sha256(words)), path=path)

    def served(self, words: bytes) -> str:
        """The name of a snapshot of one layer."""
        return self.pull([self.layer(words)])[0]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[KernelRig]:
    rig = KernelRig(tmp_path / "root", layers=MemoryLayers())
    yield rig
    rig.snapshotter.close()
    for mountpoint in (rig.root / "m").iterdir():
        KernelMounter().unmount(mountpoint)


def test_known_mounts_tell_of_the_use_as_others_do(rig: KernelRig) -> None:
    mounts = rig.snapshotter.prepare("k8s.io/9/container", rig.served(b"base"))
    rig.observer.reads.clear()

    assert rig.snapshotter.mounts_nowait("k8s.io/9/container") == mounts
    assert [len(files) for files in rig.observer.reads] == [1]


def test_a_mount_that_was_taken_away_is_not_known_and_made_again(rig: KernelRig) -> None:
    mounts = rig.snapshotter.prepare("k8s.io/9/container", rig.served(b"base"))
    (mountpoint,) = (rig.root / "m").iterdir()
    syscalls.unmount(str(mountpoint))

    assert rig.snapshotter.mounts_nowait("k8s.io/9/container") is None
    assert rig.snapshotter.mounts("k8s.io/9/container") == mounts
    assert [path.name for path in mountpoint.iterdir()]
    rig.snapshotter.prepare("k8s.io/10/other", rig.snapshotter.stat("k8s.io/9/container").parent)
    assert rig.snapshotter.mounts_nowait("k8s.io/10/other") is not None


def test_a_mount_that_is_to_be_another_is_made_at_the_next_start(rig: KernelRig) -> None:
    parent = rig.served(b"base")
    rig.snapshotter.prepare("k8s.io/9/container", parent)
    (mountpoint,) = (rig.root / "m").iterdir()
    from_file = mountpoint.stat().st_dev
    rig.snapshotter.prewarm()
    assert rig.snapshotter.prepare_nowait("k8s.io/10/same", parent) is not None
    assert mountpoint.stat().st_dev == from_file

    rig.loop = True
    rig.snapshotter.prewarm()
    assert rig.snapshotter.prepare_nowait("k8s.io/11/other", parent) is None
    rig.snapshotter.prepare("k8s.io/11/other", parent)
    assert mountpoint.stat().st_dev != from_file
    rig.snapshotter.prewarm()
    assert rig.snapshotter.prepare_nowait("k8s.io/12/other", parent) is not None


def test_a_container_is_prepared_at_once_while_all_below_is_mounted(rig: KernelRig) -> None:
    name = rig.served(b"base")
    rig.snapshotter.prepare("k8s.io/9/container", name)
    rig.snapshotter.prewarm()
    rig.observer.reads.clear()

    mounts = rig.snapshotter.prepare_nowait("k8s.io/10/container", name)

    assert (
        mounts == rig.snapshotter.mounts("k8s.io/10/container") == rig.snapshotter.mounts_nowait("k8s.io/10/container")
    )
    assert len(rig.observer.reads) == 3
    assert len({*rig.observer.reads}) == 1
    (mountpoint,) = (rig.root / "m").iterdir()
    syscalls.unmount(str(mountpoint))
    assert rig.snapshotter.prepare_nowait("k8s.io/11/container", name) is None


@pytest.mark.parametrize("again", [False, True], ids=["removed", "another-one"])
def test_a_parent_that_goes_while_a_container_is_prepared_on_it(rig: KernelRig, *, again: bool) -> None:
    name = rig.served(b"base")
    rig.snapshotter.prepare("k8s.io/9/container", name)
    rig.snapshotter.remove("k8s.io/9/container")
    rig.snapshotter.prewarm()

    def meanwhile() -> None:
        rig.observer.meanwhile = lambda: None
        rig.snapshotter.remove(name)
        if again:
            rig.snapshotter.prepare("k8s.io/10/extract-1-abcd x")
            rig.snapshotter.commit(name, "k8s.io/10/extract-1-abcd x")

    rig.observer.meanwhile = meanwhile
    assert rig.snapshotter.prepare_nowait("k8s.io/10/container", name) is None
    assert rig.snapshotter.mounts_nowait("k8s.io/10/container") is None
    assert rig.names == ([name] if again else [])


def test_what_no_container_has_read_does_not_stay_mounted(rig: KernelRig) -> None:
    idle, read, below = rig.served(b"idle"), rig.served(b"read"), rig.served(b"below")
    rig.snapshotter.prepare("k8s.io/9/container", read)
    rig.snapshotter.prepare("k8s.io/9/extract-1-abcd x", below)

    rig.snapshotter.unmount_idle()
    assert rig.mounted == 2
    rig.snapshotter.remove("k8s.io/9/container")
    rig.snapshotter.remove("k8s.io/9/extract-1-abcd x")
    rig.snapshotter.unmount_idle()
    assert rig.mounted == 1  # a container has read it, and the next one finds its pages

    rig.snapshotter.prepare("k8s.io/10/container", idle)
    assert rig.mounted == 2
    assert rig.served(b"below") == below
    assert rig.mounted == 3


def test_what_is_unmounted_before_a_row_is_there_is_mounted_again(rig: KernelRig) -> None:
    rig.clock = clock = AskingClock()
    rig.restart()
    name = rig.served(b"base")
    clock.question = rig.snapshotter.unmount_idle  # asked inside the transaction

    rig.snapshotter.prepare("k8s.io/9/extract-1-abcd x", name)

    assert clock.answers == [None]
    assert rig.mounted == 1


async def test_a_hit_is_unmounted_some_time_later(tmp_path: Path) -> None:
    rig = KernelRig(tmp_path / "root", replace(SETTINGS, unmount_idle_after=0.2), layers=MemoryLayers())
    layer = rig.layer(b"base")
    ready, path = asyncio.Event(), tmp_path / "s"
    serving = asyncio.create_task(serve(rig.snapshotter, path, ready=ready.set))
    await asyncio.wait_for(ready.wait(), 10)
    channel = Channel(path=str(path))
    try:
        prepare = UnaryUnaryMethod(
            channel, f"/{SERVICE}/Prepare", pb.PrepareSnapshotRequest, pb.PrepareSnapshotResponse
        )
        key = f"k8s.io/9/extract-1-abcd {layer.chain_id}"
        with pytest.raises(GRPCError, match="is served by"):
            await prepare(pb.PrepareSnapshotRequest(key=key, labels={REF_LABEL: layer.chain_id}))
        assert rig.mounted == 1
        assert await asyncio.to_thread(wait_until, lambda: rig.mounted == 0, seconds=10)
    finally:
        channel.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        rig.snapshotter.close()


def test_a_layer_that_nobody_needs_is_forgotten_with_its_mount(rig: KernelRig) -> None:
    name = rig.served(b"base")
    rig.snapshotter.prepare("k8s.io/9/container", name)
    rig.snapshotter.remove("k8s.io/9/container")
    rig.snapshotter.remove(name)
    rig.snapshotter.cleanup()

    assert list((rig.root / "m").iterdir()) == []
    again = rig.served(b"base")
    assert rig.snapshotter.prepare("k8s.io/11/container", again) == rig.snapshotter.mounts("k8s.io/11/container")
