"""containerd's records, its containers and the disk, as the loop sees them; and the ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.cluster.ledger import Ledger
from imagecache.cluster.runtime import ContainerdRecords, LocalMachine
from imagecache.cluster.sync import Known
from imagecache.errors import ContainerdUnavailable, StoreError
from imagecache.node.attach import NodeAttacher
from imagecache.node.ports import SnapshotKey
from imagecache.testing.clock import FakeClock
from imagecache.testing.containerd import FakeSnapshotter, MemoryContainerd
from imagecache.testing.snapshots import MemoryDocuments, snapshot

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
    attached = await records.attach(snapshot(PUBLIC))

    assert records.mode == "proxy"
    assert set(attached.names) == containerd.spaces["k8s.io"].images.keys()
    assert await records.missing(attached.names) == frozenset()
    del containerd.spaces["k8s.io"].images["docker.io/library/app:1"]
    assert await records.missing(attached.names) == {"docker.io/library/app:1"}
    await records.attach(snapshot(PUBLIC))
    await records.detach(snapshot(PUBLIC), [])
    assert not containerd.spaces["k8s.io"].images
    assert told == ["3 records", "3 records", "0 records"]


async def test_a_private_image_is_explained(records: ContainerdRecords) -> None:
    attached = await records.attach(snapshot(PUBLIC, PRIVATE))
    assert attached.note == "private, so pods pull manifest and config with their own secret: corp/secret:1"
    assert not any("secret" in name for name in attached.names)


async def test_a_layer_that_native_mode_cannot_serve_is_explained(
    containerd: MemoryContainerd, records: ContainerdRecords
) -> None:
    del containerd.snapshotters["imagecache"]
    containerd.snapshotters["erofs"] = FakeSnapshotter(diff_ids={layer.diff_id for layer in PUBLIC.layers})
    attached = await records.attach(snapshot(PUBLIC, ODD))
    assert records.mode == "native"
    assert attached.note == "native mode cannot serve every layer, pods pull the rest: odd:1"


async def test_what_containers_stand_on(
    containerd: MemoryContainerd, attacher: NodeAttacher, records: ContainerdRecords, tmp_path: Path
) -> None:
    machine = LocalMachine(tmp_path, containerd, attacher)
    document = snapshot(PUBLIC, ODD)
    await records.attach(document)
    assert await machine.in_use([document]) == frozenset()

    top = PUBLIC.layers[-1]
    await containerd.session("k8s.io").snapshots.prepare(SnapshotKey("imagecache", "container", top.chain_id))

    assert await machine.in_use([document]) == {layer.name for layer in PUBLIC.layers}
    containerd.running = False
    with pytest.raises(ContainerdUnavailable):
        await machine.in_use([document])


async def test_the_disk(containerd: MemoryContainerd, attacher: NodeAttacher, tmp_path: Path) -> None:
    disk = await LocalMachine(tmp_path, containerd, attacher).disk()
    assert 0 < disk.free <= disk.capacity
    with pytest.raises(StoreError):
        await LocalMachine(tmp_path / "gone", containerd, attacher).disk()


# the ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "nodes" / "worker")
    made.load()
    return made


def again(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "nodes" / "worker")
    made.load()
    return made


def test_the_ledger_remembers(ledger: Ledger, tmp_path: Path) -> None:
    first, second = snapshot(PUBLIC, number=1), snapshot(PRIVATE, number=2)
    ledger.write(first, ["b", "a"])
    ledger.write(second, ["a"])
    ledger.used(first.id, 5.0)
    ledger.used("imc-unknown", 5.0)
    ledger.flush()
    ledger.erase(second.id)
    ledger.erase(second.id)

    for each in (ledger, again(tmp_path)):
        assert each.documents == {first.id: first}
        assert each.known() == {first.id: Known(frozenset({"a", "b"}), 5.0)}


def test_a_use_survives_another_attach(ledger: Ledger) -> None:
    document = snapshot(PUBLIC)
    ledger.write(document, ["a"])
    ledger.used(document.id, 5.0)
    ledger.write(document, ["a", "b"])
    assert ledger.known()[document.id] == Known(frozenset({"a", "b"}), 5.0)


def test_an_erased_use_is_not_written(ledger: Ledger, tmp_path: Path) -> None:
    document = snapshot(PUBLIC)
    ledger.write(document, ["a"])
    ledger.used(document.id, 5.0)
    ledger.erase(document.id)
    ledger.flush()
    assert again(tmp_path).documents == {}


def test_files_that_cannot_be_read_count_as_not_there(ledger: Ledger, tmp_path: Path) -> None:
    document = snapshot(PUBLIC)
    ledger.write(document, ["a"])
    directory = tmp_path / "nodes" / "worker"
    (file,) = directory.iterdir()
    (directory / f"imc-{'z' * 20}.json").write_bytes(file.read_bytes())  # another one's name
    (directory / f"imc-{'y' * 20}.json").write_bytes(file.read_bytes()[:-5])
    (directory / "notes.json").write_text("{}")
    assert again(tmp_path).documents == {document.id: document}
