"""Whole bundles from a remote store into a node's own."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from imagecache.digest import Digest
from imagecache.erofs.layer_header import HEADER_OFFSET, LayerHeader
from imagecache.errors import (
    BlobNotFound,
    ImageCacheError,
    NoMatchingPlatform,
    NoSpace,
    NotFound,
    StoreCorrupt,
    StoreUnreachable,
)
from imagecache.fetch.bundle import BundleFetcher
from imagecache.fetch.transfer import FetchSettings
from imagecache.oci.descriptor import Platform
from imagecache.store.bundle_document import Bundle, ImageRecord, LayerRecord
from imagecache.store.durable_files import write_all
from imagecache.store.expected_bundle import ExpectedBundle
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.images import tar_of
from testkit.served import MemoryRemoteStore
from tests.unit.fetch.origin import SMALL, Fetchers, Origin

ID = "imc-" + "a" * 20
OTHER = "imc-" + "b" * 20
NOISE = random.Random(5).randbytes(900_000)
BASE = tar_of({"etc": None, "etc/base": NOISE})
APP = tar_of({"opt/app": NOISE[::-1]})
"""Its parent is implied: the layer image is keyed by chainID."""


def expected(fetcher: BundleFetcher, bundle_id: str = ID) -> ExpectedBundle:
    """What the API server has of a bundle when the store has just what the controller has made."""
    remote = fetcher._remote
    assert isinstance(remote, MemoryRemoteStore)
    return remote.expected(bundle_id)


async def fetch(fetcher: BundleFetcher, bundle_id: str = ID) -> list[int]:
    progress: list[int] = []
    await fetcher.fetch(await fetcher.describe(expected(fetcher, bundle_id)), progress.append)
    return progress


def same_files(origin: Origin, node: Store, document: Bundle) -> bool:
    theirs = Store(origin.root)
    return all(
        node.layers.path(name).read_bytes() == theirs.layers.path(name).read_bytes() for name in document.layer_names()
    ) and all(node.blobs.read(digest) == theirs.blobs.read(digest) for digest in document.document_digests())


async def test_a_bundle_arrives_whole(origin: Origin, node: Store, fetchers: Fetchers) -> None:
    document = await origin.build(ID, BASE, APP)

    progress = await fetch(fetchers())

    assert node.bundles.get(ID) == document
    assert same_files(origin, node, document)
    assert {name.space for name in document.layer_names()} == {Space.LAYERS, Space.CHAINS}
    assert progress == sorted(progress)
    assert progress[-1] == sum(layer.size for layer in document.images[0].layers)
    assert not list(node.paths.downloads.iterdir())
    assert not list(node.paths.staging.iterdir())
    assert not list(node.paths.build_leases.iterdir())


async def test_what_is_here_is_not_fetched(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    await origin.build(ID, BASE)
    await fetch(fetchers())
    document = await origin.build(OTHER, BASE, APP)
    remote.fetched.clear()

    await fetch(fetchers(), OTHER)

    assert same_files(origin, node, document)
    app = document.images[0].layers[1]
    assert remote.fetched == {app.name: app.size}


async def test_one_fetch_for_many_caches_at_once(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    ids = [f"imc-{number:020d}" for number in range(20)]
    documents = [await origin.build(each, BASE, tar_of({f"opt{each}": b"x" * 5000})) for each in ids]
    fetcher = fetchers()

    await asyncio.gather(*(fetch(fetcher, each) for each in ids))

    unique = {layer.name: layer.size for document in documents for layer in document.images[0].layers}
    assert dict(remote.fetched) == unique
    assert all(same_files(origin, node, document) for document in documents)


async def test_two_agents_on_one_store_fetch_once(
    origin: Origin, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)

    await asyncio.gather(fetch(fetchers()), fetch(fetchers()))

    assert remote.fetched == {layer.name: layer.size for layer in document.images[0].layers}


def stop_at(remote: MemoryRemoteStore, offset: int, act: Callable[[], ImageCacheError | None]) -> None:
    def on_piece(_name: LayerName, at: int) -> ImageCacheError | None:
        return act() if at >= offset else None

    remote.on_piece = on_piece


async def test_a_killed_fetch_goes_on_where_it_was(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)
    stop_at(remote, 600_000, lambda: StoreUnreachable("the cable is out"))
    with pytest.raises(StoreUnreachable):
        await fetch(fetchers())
    (partial,) = node.paths.downloads.iterdir()
    kept = partial.stat().st_size
    assert kept >= 300_000
    remote.fetched.clear()
    remote.on_piece = lambda _name, _offset: None

    progress = await fetch(fetchers())  # another process: nothing is known but the file

    assert same_files(origin, node, document)
    assert sum(remote.fetched.values()) == document.images[0].layers[0].size - kept
    assert kept in progress


async def test_cancelled_and_resumed(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)
    fetcher = fetchers()
    reached = asyncio.Event()

    def reach() -> None:
        reached.set()

    stop_at(remote, 500_000, reach)
    running = asyncio.create_task(fetch(fetcher))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not list(node.paths.build_leases.iterdir())

    await fetch(fetcher)

    assert same_files(origin, node, document)


async def test_one_of_two_waiters_leaves(origin: Origin, node: Store, fetchers: Fetchers) -> None:
    document = await origin.build(ID, BASE)
    fetcher = fetchers()
    first, second = (asyncio.create_task(fetch(fetcher)) for _ in range(2))
    await asyncio.sleep(0)

    first.cancel()
    await second

    assert same_files(origin, node, document)


async def test_a_byte_that_changed_on_the_wire_is_fetched_again(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)
    remote.damage[document.images[0].layers[0].name] = 1

    await fetch(fetchers())

    assert same_files(origin, node, document)


async def test_a_layer_that_stays_damaged_fails(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)
    name = document.images[0].layers[0].name
    remote.damage[name] = 99

    with pytest.raises(StoreCorrupt, match="differs at byte"):
        await fetch(fetchers())

    assert not node.layers.has(name)
    assert not list(node.paths.downloads.iterdir())
    assert node.bundles.ids() == []
    assert remote.damage[name] == 97


async def test_a_partial_download_that_rotted_is_fetched_again(origin: Origin, node: Store, fetchers: Fetchers) -> None:
    document = await origin.build(ID, BASE)
    layer = document.images[0].layers[0]
    with node.downloads.open(layer.digest, layer.size) as download:
        download.write(bytes(70_000))

    await fetch(fetchers())

    assert same_files(origin, node, document)


async def test_a_layer_image_that_was_cut_short_on_disk_is_set_aside(
    origin: Origin, node: Store, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)
    await fetch(fetchers())
    path = node.layers.path(document.images[0].layers[0].name)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.truncate(1000)

    await fetch(fetchers())

    assert same_files(origin, node, document)
    assert len(list(node.paths.quarantine.iterdir())) == 1


def forged(layer: LayerRecord, content: bytes) -> LayerRecord:
    return msgspec.structs.replace(layer, digest=Digest.sha256(content), size=len(content))


async def test_metadata_that_does_not_follow_from_the_tar_is_refused(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    """A store that lies: tar and diffID are right, but the tree beside it is not, and the document says so too."""
    document = await origin.build(ID, BASE)
    (layer,) = document.images[0].layers
    content = bytearray(remote.layers[layer.name])
    content[-5] ^= 1
    remote.layers[layer.name] = bytes(content)
    image = msgspec.structs.replace(document.images[0], layers=(forged(layer, bytes(content)),))
    remote.bundles[ID] = msgspec.structs.replace(document, images=(image,))

    with pytest.raises((StoreCorrupt, ImageCacheError)) as caught:
        await fetch(fetchers())

    assert caught.value.reason in {"StoreCorrupt", "MalformedLayer"}
    assert not node.layers.has(layer.name)
    assert not list(node.paths.downloads.iterdir())


@pytest.mark.parametrize("at", [1030, 2100, 4100, -5])
async def test_a_byte_that_the_proof_stumbles_over_and_that_changed_on_the_wire_is_fetched_again(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers, at: int
) -> None:
    """Beside the tar, where the file's own digest is not computed, and in a header of the tar."""
    document = await origin.build(ID, BASE)
    (layer,) = document.images[0].layers
    honest = remote.layers[layer.name]
    damaged = bytearray(honest)
    damaged[at] ^= 1
    remote.layers[layer.name] = bytes(damaged)

    def heal(_name: LayerName, _offset: int) -> None:
        if remote.fetched[layer.name] >= len(honest) - SMALL.range_size:  # the last piece of the first fetch
            remote.layers[layer.name] = honest

    remote.on_piece = heal

    await fetch(fetchers())

    assert same_files(origin, node, document)
    assert remote.fetched[layer.name] == 2 * len(honest)


async def test_a_header_that_takes_more_for_the_tar_is_refused(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    """The diffID proves the bytes that the document calls the tar, so the layer image has to call the same so."""
    cut = BASE.rstrip(b"\0")
    cut += bytes(-len(cut) % 512)  # a tar without its end: what follows it could pass for more entries
    document = await origin.build(ID, cut)
    longer = await origin.build(OTHER, cut + tar_of({"etc/more": b"evil"}))
    (layer,), (other,) = document.images[0].layers, longer.images[0].layers
    content = bytearray(remote.layers[other.name])
    span = slice(HEADER_OFFSET, HEADER_OFFSET + LayerHeader.STRUCT.size)
    content[span] = replace(LayerHeader.unpack(bytes(content[span])), diff_id=layer.diff_id).pack()
    remote.layers[layer.name] = bytes(content)
    image = msgspec.structs.replace(document.images[0], layers=(forged(layer, bytes(content)),))
    remote.bundles[ID] = msgspec.structs.replace(document, images=(image,))

    with pytest.raises(StoreCorrupt, match="its tar has"):
        await fetch(fetchers())

    assert not node.layers.has(layer.name)


def workers() -> list[int]:
    """Processes of ours that prove; other tests have children of this process, too."""
    children = [int(child) for child in Path("/proc/thread-self/children").read_text().split()]
    return [child for child in children if b"imagecache.builder.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


async def test_a_worker_that_dies_in_a_proof_loses_nothing(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)

    def kill() -> None:
        remote.on_piece = lambda _name, _offset: None
        (worker,) = workers()
        os.kill(worker, signal.SIGKILL)

    stop_at(remote, 600_000, kill)
    await fetch(fetchers())

    assert same_files(origin, node, document)
    assert sum(remote.fetched.values()) <= document.images[0].layers[0].size


async def test_the_rest_of_a_layer_is_proven_with_what_was_there(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)
    (layer,) = document.images[0].layers
    with node.downloads.open(layer.digest, layer.size) as download:
        download.write(remote.layers[layer.name][:70_001])

    await fetch(fetchers())

    assert same_files(origin, node, document)
    assert remote.fetched[layer.name] == layer.size - 70_001


async def test_a_full_disk_keeps_nothing(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    await origin.build(ID, BASE)
    stop_at(remote, 600_000, lambda: NoSpace("no space left on device"))

    with pytest.raises(NoSpace):
        await fetch(fetchers())

    assert not list(node.paths.downloads.iterdir())


async def test_what_the_store_lacks(origin: Origin, remote: MemoryRemoteStore, fetchers: Fetchers) -> None:
    document = await origin.build(ID, BASE)
    with pytest.raises(NotFound):
        await fetchers().describe(replace(remote.expected(ID), id=OTHER))

    remote.layers.clear()
    with pytest.raises(BlobNotFound):
        await fetch(fetchers())

    del remote.documents[document.images[0].config.digest]
    with pytest.raises(BlobNotFound):
        await fetchers().describe(remote.expected(ID))


async def test_nothing_is_collected_while_it_is_fetched(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE, APP)

    def collect() -> None:
        node.collect()

    stop_at(remote, 0, collect)

    await fetch(fetchers(settings=FetchSettings(range_size=1 << 20, layers=1)))

    assert same_files(origin, node, document)


Change = Callable[[ImageRecord], ImageRecord]


def with_layer(**changes: object) -> Change:
    def change(image: ImageRecord) -> ImageRecord:
        bottom = msgspec.structs.replace(image.layers[0], **changes)
        return msgspec.structs.replace(image, layers=(bottom, *image.layers[1:]))

    return change


WRONG = Digest.sha256(b"wrong")
LIES: dict[str, Change] = {
    "diff-id": with_layer(diff_id=WRONG),
    "chain-id": with_layer(chain_id=WRONG),
    "name": with_layer(name=LayerName(Space.LAYERS, WRONG)),
    "blob": lambda image: msgspec.structs.replace(
        image, layers=(msgspec.structs.replace(image.layers[0], blob=image.config), *image.layers[1:])
    ),
    "too-small-for-the-tar": with_layer(size=4096),
    "negative-tar": with_layer(tar_size=-1),
    "fewer-layers": lambda image: msgspec.structs.replace(image, layers=image.layers[:1]),
    "repeated-with-another-file": lambda image: msgspec.structs.replace(
        image, layers=(image.layers[0], msgspec.structs.replace(image.layers[1], name=image.layers[0].name))
    ),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_document_that_lies_is_refused_before_the_first_layer(
    origin: Origin, remote: MemoryRemoteStore, fetchers: Fetchers, lie: str
) -> None:
    """Also when the controller has made it, so that it has the right digest."""
    document = await origin.build(ID, BASE, APP)
    remote.bundles[ID] = msgspec.structs.replace(document, images=(LIES[lie](document.images[0]),))

    with pytest.raises(StoreCorrupt) as caught:
        await fetchers().describe(remote.expected(ID))

    assert caught.value.image == "app:1"
    assert not remote.fetched


async def test_a_download_left_from_this_fetch_is_kept_by_collections(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)
    layer = document.images[0].layers[0]
    with node.downloads.open(layer.digest, layer.size) as download:
        write_all(download.fd, remote.layers[layer.name][:100_000], 0)

    node.collect()
    await fetch(fetchers())

    assert sum(remote.fetched.values()) == layer.size - 100_000


async def test_a_node_fetches_what_is_for_its_platform(origin: Origin, node: Store, fetchers: Fetchers) -> None:
    document = await origin.build(ID, BASE, name="app:1")
    others = await origin.build(OTHER, tar_of({"etc": None, "etc/arm": NOISE}), name="app:1")
    (image,), (other,) = document.images, others.images
    foreign = msgspec.structs.replace(other, platform=Platform(os="linux", architecture="arm64"))
    remote = origin.remote
    remote.bundles[ID] = msgspec.structs.replace(document, images=(foreign, image))
    for digest in others.document_digests() - document.document_digests():
        del remote.documents[digest]

    await fetch(fetchers())

    assert node.bundles.get(ID).images == (image,)
    assert set(node.layers.names()) == set(remote.fetched) == document.layer_names()


async def test_a_bundle_without_an_image_for_the_platform_of_a_node(origin: Origin, fetchers: Fetchers) -> None:
    document = await origin.build(ID, BASE)
    arm = Platform(os="linux", architecture="arm")
    images = tuple(msgspec.structs.replace(image, platform=arm) for image in document.images)
    origin.remote.bundles[ID] = msgspec.structs.replace(document, images=images)

    with pytest.raises(NoMatchingPlatform, match="not available for linux/amd64, only for linux/arm"):
        await fetchers().describe(origin.remote.expected(ID))
