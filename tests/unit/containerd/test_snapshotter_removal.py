"""Leaving a containerd: what only we could unpack is forgotten, everything else stays."""

from __future__ import annotations

import json
from collections.abc import Collection

import pytest

from imagecache.containerd.also_unpack import AlsoUnpacker
from imagecache.containerd.api import SnapshotKey
from imagecache.containerd.attach import NodeAttacher
from imagecache.containerd.snapshotter_removal import SnapshotterRemoval
from imagecache.digest import Digest
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor
from testkit.attachable import MemoryDocuments, bundle
from testkit.clock import FakeClock
from testkit.containerd import FakeSnapshotter, MemoryContainerd
from testkit.images_oci import MemoryImage, memory_image

TARS = [b"a" * 10240, b"b" * 10240]


@pytest.fixture
def containerd() -> MemoryContainerd:
    made = MemoryContainerd()
    made.snapshotters["imagecache"] = FakeSnapshotter()
    return made


@pytest.fixture
def departure(containerd: MemoryContainerd) -> SnapshotterRemoval:
    return SnapshotterRemoval(containerd, "imagecache")


async def record(
    containerd: MemoryContainerd,
    name: str,
    image: MemoryImage,
    *,
    layers: bool,
    unpacked: Collection[str] = ("imagecache",),
) -> None:
    """A pulled image, with its layers' content or without, that these snapshotters have unpacked."""
    session = containerd.session("k8s.io")
    without = set() if layers else {layer.digest for layer in image.layers}
    for digest, blob in image.blobs.items():
        if digest not in without:
            roots = {f"containerd.io/gc.ref.snapshot.{name}": "top" for name in unpacked}
            is_config = image.config is not None and digest == image.config.digest
            await session.content.write(blob, roots if is_config else {})
    await session.images.put(name, image.descriptor, {})


def names(containerd: MemoryContainerd) -> set[str]:
    return set(containerd.spaces["k8s.io"].images)


async def test_an_image_without_its_layers_is_forgotten(
    containerd: MemoryContainerd, departure: SnapshotterRemoval
) -> None:
    await record(containerd, "whole:1", memory_image(TARS), layers=True)
    await record(containerd, "ours:1", memory_image([b"c" * 10240]), layers=False)

    forgotten = await departure.delete_image_records("overlayfs")

    assert [name for name in forgotten if "sha256" not in name] == ["k8s.io/ours:1"]
    assert "whole:1" in names(containerd)
    assert await departure.delete_image_records("overlayfs") == ()


async def test_what_we_have_not_unpacked_is_not_our_business(
    containerd: MemoryContainerd, departure: SnapshotterRemoval
) -> None:
    """An image of a handler with its own snapshotter; of another platform, or lazily pulled."""
    await record(containerd, "kata:1", memory_image(TARS), layers=False, unpacked=["devmapper"])
    await record(containerd, "metadata:1", memory_image([b"c" * 10240]), layers=False, unpacked=[])
    before = names(containerd)

    assert await departure.delete_image_records("overlayfs") == ()
    assert await departure.delete_image_records("overlayfs", ours=True) == ()
    assert names(containerd) == before


async def test_what_the_other_snapshotter_alone_has_is_forgotten_with_ours(
    containerd: MemoryContainerd, departure: SnapshotterRemoval
) -> None:
    await record(containerd, "discarded:1", memory_image(TARS), layers=False, unpacked=["overlayfs"])

    assert await departure.delete_image_records("overlayfs") == ()
    assert "k8s.io/discarded:1" in await departure.delete_image_records("overlayfs", ours=True)


@pytest.mark.parametrize(("other", "lost"), [("overlayfs", True), ("", False)])
async def test_where_nobody_knows_the_other_one_any_counts(
    containerd: MemoryContainerd, departure: SnapshotterRemoval, other: str, lost: bool
) -> None:
    await record(containerd, "two:1", memory_image(TARS), layers=False, unpacked=["imagecache", "devmapper", "gone"])
    containerd.snapshotters["devmapper"] = FakeSnapshotter()
    async with containerd.session("k8s.io").leased(60) as leased:
        key = SnapshotKey("devmapper", "key")
        await leased.snapshots.prepare(key)
        await leased.snapshots.commit(key, "top")

        assert bool(await departure.delete_image_records(other)) == lost


async def test_an_attached_image_is_forgotten_with_all_its_names(
    containerd: MemoryContainerd, departure: SnapshotterRemoval
) -> None:
    documents = MemoryDocuments()
    image = documents.image("nginx:1.25", ["base", "app"], index=True)
    containerd.snapshotters["imagecache"].chains |= {layer.chain_id for layer in image.layers}
    await NodeAttacher(containerd, documents, FakeClock()).attach(bundle(image))

    assert len(await departure.delete_image_records("overlayfs")) == 3
    assert names(containerd) == set()


async def test_what_the_other_snapshotter_has_unpacked_stays(
    containerd: MemoryContainerd, departure: SnapshotterRemoval
) -> None:
    """With discard_unpacked_layers no image has its layers any more."""
    image = memory_image(TARS)
    await record(containerd, "unpacked:1", image, layers=False)
    assert image.config is not None
    session = containerd.session("k8s.io")
    await session.content.write(image.blobs[image.config.digest], {"containerd.io/gc.ref.snapshot.overlayfs": "top"})
    async with session.leased(60) as leased:
        key = SnapshotKey("overlayfs", "key")
        await leased.snapshots.prepare(key)
        await leased.snapshots.commit(key, "top")

        assert await departure.delete_image_records("overlayfs") == ()


async def test_an_image_that_was_unpacked_elsewhere_stays_until_we_are_gone(
    containerd: MemoryContainerd, departure: SnapshotterRemoval
) -> None:
    documents = MemoryDocuments()
    image = documents.image("nginx:1.25", ["base", "app"])
    containerd.snapshotters["imagecache"].chains |= {layer.chain_id for layer in image.layers}
    containerd.handlers = {"two": "overlayfs"}
    unpacker = AlsoUnpacker(documents, FakeClock())
    await NodeAttacher(containerd, documents, FakeClock(), unpacker=unpacker).attach(bundle(image))

    assert await departure.delete_image_records("overlayfs") == ()
    await departure.remove_snapshots()
    assert names(containerd) == set()
    assert containerd.spaces["k8s.io"].committed == {}


async def test_private_images_that_were_unpacked_elsewhere_do_not_stay(
    containerd: MemoryContainerd, departure: SnapshotterRemoval
) -> None:
    """They have no record that they could go with."""
    documents = MemoryDocuments()
    image = documents.image("team/secret:1", ["base", "secret"], private=True)
    containerd.handlers = {"two": "overlayfs"}
    unpacker = AlsoUnpacker(documents, FakeClock())
    await NodeAttacher(containerd, documents, FakeClock(), unpacker=unpacker).attach(bundle(image))
    assert len(containerd.spaces["k8s.io"].committed) == 2

    await departure.remove_snapshots()
    assert containerd.spaces["k8s.io"].committed == {}


@pytest.mark.parametrize("body", [b"", b"not json", json.dumps({"schemaVersion": 2}).encode()])
async def test_what_cannot_be_read_stays(
    containerd: MemoryContainerd, departure: SnapshotterRemoval, body: bytes
) -> None:
    session = containerd.session("k8s.io")
    await session.content.write(body, {})
    target = Descriptor(media_type=mediatypes.OCI_MANIFEST, digest=Digest.sha256(body), size=len(body))
    await session.images.put("odd:1", target, {})
    gone = Descriptor(media_type=mediatypes.OCI_MANIFEST, digest=Digest.sha256(b"gone"), size=4)
    await session.images.put("gone:1", gone, {})

    assert await departure.delete_image_records("overlayfs") == ()


async def test_containers_are_counted_in_every_namespace(
    containerd: MemoryContainerd, departure: SnapshotterRemoval
) -> None:
    for namespace in ("k8s.io", "default"):
        snapshots = containerd.session(namespace).snapshots
        await snapshots.prepare(SnapshotKey("imagecache", "layer"))
        await snapshots.commit(SnapshotKey("imagecache", "layer"), "base")
        await snapshots.prepare(SnapshotKey("imagecache", "container", "base"))

    assert await departure.in_use() == 2


async def test_what_no_container_has_is_let_go(containerd: MemoryContainerd, departure: SnapshotterRemoval) -> None:
    """An image that was pulled whole keeps its content, and loses our snapshots of it."""
    image = memory_image(TARS)
    await record(containerd, "whole:1", image, layers=True)
    assert image.config is not None
    session = containerd.session("k8s.io")
    await session.content.write(image.body, {"containerd.io/gc.ref.content.config": str(image.config.digest)})
    roots = {"containerd.io/gc.ref.snapshot.imagecache": "b", "containerd.io/gc.ref.snapshot.overlayfs": "o"}
    await session.content.write(image.blobs[image.config.digest], roots)
    for snapshotter, parent, name in (("imagecache", "", "a"), ("imagecache", "a", "b"), ("overlayfs", "", "o")):
        key = SnapshotKey(snapshotter, "key", parent)
        await session.snapshots.prepare(key)
        await session.snapshots.commit(key, name)

    await departure.remove_snapshots()

    assert set(containerd.spaces["k8s.io"].committed) == {("overlayfs", "o")}
    assert names(containerd) == {"whole:1", *(name for name in names(containerd) if name.startswith("sha256:"))}
    await departure.remove_snapshots()


async def test_a_containerd_that_does_not_know_us_has_nothing_of_ours(containerd: MemoryContainerd) -> None:
    del containerd.snapshotters["imagecache"]
    departure = SnapshotterRemoval(containerd, "imagecache")

    assert not await departure.is_loaded()
    assert await departure.in_use() == 0
    await departure.remove_snapshots()
