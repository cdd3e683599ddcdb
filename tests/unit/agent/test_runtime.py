"""containerd's records, its containers and the disk, as the loop sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.agent.report import not_attached
from imagecache.agent.runtime import ContainerdRecords, LocalMachine
from imagecache.containerd.also_unpack import AlsoUnpacker
from imagecache.containerd.api import Attached, SnapshotKey, UnpackedChain
from imagecache.containerd.attach import NodeAttacher
from imagecache.errors import ContainerdUnavailable, StoreError
from testkit.attachable import MemoryDocuments, bundle
from testkit.clock import FakeClock
from testkit.containerd import FakeSnapshotter, MemoryContainerd

DOCUMENTS = MemoryDocuments()
PUBLIC = DOCUMENTS.image("app:1", ["base", "app"])
PRIVATE = DOCUMENTS.image("corp/secret:1", ["base", "secret"], private=True)
ODD = DOCUMENTS.image("odd:1", ["base", "odd"], chains=["odd"])


@pytest.fixture
def containerd() -> MemoryContainerd:
    made = MemoryContainerd("2.4.2")
    layers = [layer for image in (PUBLIC, PRIVATE, ODD) for layer in image.layers]
    made.snapshotters["imagecache"] = FakeSnapshotter(chains={layer.chain_id for layer in layers})
    return made


@pytest.fixture
def attacher(containerd: MemoryContainerd) -> NodeAttacher:
    return NodeAttacher(containerd, DOCUMENTS, FakeClock())


@pytest.fixture
def records(containerd: MemoryContainerd, attacher: NodeAttacher) -> ContainerdRecords:
    return ContainerdRecords(containerd, attacher, "k8s.io")


async def test_attached_missing_and_detached(containerd: MemoryContainerd, records: ContainerdRecords) -> None:
    told: list[str] = []

    async def changed() -> None:
        told.append(f"{len(containerd.spaces['k8s.io'].images)} records")

    records.changed = changed
    attached = await records.attach(bundle(PUBLIC))

    assert records.mode == "proxy"
    assert set(attached.images) == containerd.spaces["k8s.io"].images.keys()
    assert await records.missing(attached.images) == frozenset()
    del containerd.spaces["k8s.io"].images["docker.io/library/app:1"]
    assert await records.missing(attached.images) == {"docker.io/library/app:1"}
    await records.attach(bundle(PUBLIC))
    await records.detach(bundle(PUBLIC), [])
    assert not containerd.spaces["k8s.io"].images
    assert told == ["3 records", "3 records", "0 records"]


async def test_a_private_image_is_explained(records: ContainerdRecords) -> None:
    attached = await records.attach(bundle(PUBLIC, PRIVATE))
    assert not_attached(attached) == "private, so pods pull manifest and config with their own secret: corp/secret:1"
    assert not any("secret" in name for name in attached.images)


async def test_names_that_are_left_to_a_pull_are_explained() -> None:
    assert not_attached(Attached({}, unverified=("a:1", "b:1"))) == (
        "from a registry that nobody has verified, so pods pull the names: a:1, b:1"
    )
    assert not_attached(Attached({}, reserved=("a:1",))) == "names that no cache may record, so pods pull them: a:1"


async def test_a_layer_that_native_mode_cannot_serve_is_explained(
    containerd: MemoryContainerd, records: ContainerdRecords
) -> None:
    del containerd.snapshotters["imagecache"]
    containerd.snapshotters["erofs"] = FakeSnapshotter(diff_ids={layer.diff_id for layer in PUBLIC.layers})
    attached = await records.attach(bundle(PUBLIC, ODD))
    assert records.mode == "native"
    assert not_attached(attached) == "native mode cannot serve every layer, pods pull the rest: odd:1"


async def test_layers_that_containers_use(
    containerd: MemoryContainerd, attacher: NodeAttacher, records: ContainerdRecords, tmp_path: Path
) -> None:
    machine = LocalMachine(tmp_path, containerd, attacher)
    document = bundle(PUBLIC, ODD)
    await records.attach(document)
    assert await machine.in_use([document], []) == frozenset()

    top = PUBLIC.layers[-1]
    await containerd.session("k8s.io").snapshots.prepare(SnapshotKey("imagecache", "container", top.chain_id))

    assert await machine.in_use([document], []) == {layer.name for layer in PUBLIC.layers}
    containerd.running = False
    with pytest.raises(ContainerdUnavailable):
        await machine.in_use([document], [])


async def test_the_disk(containerd: MemoryContainerd, attacher: NodeAttacher, tmp_path: Path) -> None:
    disk = await LocalMachine(tmp_path, containerd, attacher).disk()
    assert 0 < disk.free <= disk.capacity
    with pytest.raises(StoreError):
        await LocalMachine(tmp_path / "gone", containerd, attacher).disk()


async def test_snapshots_of_other_runtime_handlers(containerd: MemoryContainerd, tmp_path: Path) -> None:
    containerd.handlers = {"two": "overlayfs"}
    attacher = NodeAttacher(containerd, DOCUMENTS, FakeClock(), unpacker=AlsoUnpacker(DOCUMENTS, FakeClock()))
    records, document = ContainerdRecords(containerd, attacher, "k8s.io"), bundle(PUBLIC)
    attached = await records.attach(document)
    assert attached.handlers == await records.handlers()
    assert attached.unpacked == {"overlayfs"}

    bottom, top = (UnpackedChain("overlayfs", layer.chain_id) for layer in PUBLIC.layers)
    assert await records.lost({bottom, top}) == frozenset()
    snapshots = containerd.session("k8s.io").snapshots
    await snapshots.prepare(SnapshotKey("overlayfs", "container", bottom.chain_id))
    machine = LocalMachine(tmp_path, containerd, attacher)
    assert await machine.in_use([document], ["overlayfs"]) == {bottom}
    assert await machine.in_use([document], []) == frozenset()
    # its program is away: nothing of it can be freed, and the round goes on
    assert await machine.in_use([document], ["gone"]) == {
        UnpackedChain("gone", layer.chain_id) for layer in PUBLIC.layers
    }
    await snapshots.remove("overlayfs", top.chain_id)
    assert await records.lost({bottom, top}) == {top}
