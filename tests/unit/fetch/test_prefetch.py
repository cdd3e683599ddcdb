"""Partial layers and running builds, from a remote store into a node's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imagecache.digest import Digest
from imagecache.erofs.layer_header import DATA_START
from imagecache.errors import (
    BlobNotFound,
    DigestMismatch,
    ImageCacheError,
    NoSpace,
    StoreCorrupt,
    StoreUnreachable,
)
from imagecache.fetch.allowance import Allowance
from imagecache.fetch.bundle import BundleFetcher
from imagecache.fetch.transfer import LayerFetcher
from imagecache.fetch.verifier import Verifier
from imagecache.limits import GIB
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.images import tar_of
from testkit.served import MemoryRemoteStore
from testkit.store import put_layer
from tests.unit.fetch.origin import PREFETCH, Fetchers, Origin, PartialLayer
from tests.unit.fetch.test_bundle import ID, NOISE, OTHER, fetch, same_files

BASE = tar_of({"etc": None, "etc/base": NOISE})
APP = tar_of({"opt": None, "opt/app": NOISE[::-1], "opt/.wh.old": b""})
"""Hides something of the layers below, and is right above any."""


def nothing(_size: int) -> None:
    pass


@pytest.fixture
def prefetcher(node: Store, remote: MemoryRemoteStore, verifier: Verifier) -> Iterator[LayerFetcher]:
    prefetcher = LayerFetcher(node, remote, verifier, PREFETCH)
    yield prefetcher
    prefetcher.close()


def prefetch(layers: LayerFetcher, name: LayerName, allowance: int = GIB) -> asyncio.Task[bool]:
    return asyncio.create_task(layers.prefetch(name, Allowance(allowance), nothing))


def left(node: Store) -> list[Path]:
    return [*node.paths.staging.iterdir(), *node.paths.downloads.iterdir(), *node.paths.build_leases.iterdir()]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - files and counters have no event
            await asyncio.sleep(0.001)


async def prefetched_to(layer: PartialLayer, prefetcher: LayerFetcher, end: int) -> asyncio.Task[bool]:
    """A layer that is written up to ``end``, and has arrived as far."""
    layer.grow(end)
    prefetching = prefetch(prefetcher, layer.name)
    await until(lambda: layer.sent >= end - DATA_START)
    return prefetching


@pytest.mark.parametrize("number", [0, 1], ids=["bottom", "with-whiteouts"])
async def test_a_layer_arrives_while_it_is_written(
    origin: Origin, node: Store, remote: MemoryRemoteStore, prefetcher: LayerFetcher, number: int
) -> None:
    document = await origin.build(ID, BASE, APP)
    layer = PartialLayer(remote, document.images[0].layers[number])
    prefetching = prefetch(prefetcher, layer.name)
    for end in (5_000, 70_000, 500_000):
        layer.grow(end)
        await until(lambda end=end: layer.sent >= end - DATA_START)  # type: ignore[misc]  # bound at once
    layer.finish()

    assert await prefetching

    assert node.layers.path(layer.name).read_bytes() == layer.content
    assert remote.fetched[layer.name] == len(layer.content)
    assert not left(node)


async def test_a_layer_that_no_build_writes(node: Store, prefetcher: LayerFetcher) -> None:
    assert not await prefetch(prefetcher, LayerName(Space.LAYERS, Digest.sha256(b"nowhere")))
    assert not left(node)


async def test_a_finished_layer(origin: Origin, node: Store, prefetcher: LayerFetcher) -> None:
    document = await origin.build(ID, BASE)

    assert await prefetch(prefetcher, document.images[0].layers[0].name)

    assert node.layers.has(document.images[0].layers[0].name)


async def test_a_layer_that_another_process_fetches_meanwhile(
    origin: Origin, node: Store, remote: MemoryRemoteStore, prefetcher: LayerFetcher
) -> None:
    document = await origin.build(ID, BASE)
    layer = PartialLayer(remote, document.images[0].layers[0])
    layer.grow(300_000)
    with node.layers.lock(layer.name):
        prefetching = prefetch(prefetcher, layer.name)
        await until(lambda: remote.fetched[layer.name] > 0)
        put_layer(node, layer.name, layer.content)

    assert await prefetching

    assert remote.fetched[layer.name] < 200_000
    assert not left(node)


async def test_a_finished_layer_without_a_tar(node: Store, remote: MemoryRemoteStore, prefetcher: LayerFetcher) -> None:
    name = LayerName(Space.LAYERS, Digest.sha256(b"nothing"))
    remote.layers[name] = bytes(DATA_START)

    with pytest.raises(StoreCorrupt, match="but has no tar"):
        await prefetch(prefetcher, name)

    assert not left(node)


async def test_a_build_that_begins_again_is_refused(
    origin: Origin, node: Store, remote: MemoryRemoteStore, prefetcher: LayerFetcher
) -> None:
    document = await origin.build(ID, BASE)
    layer = PartialLayer(remote, document.images[0].layers[0])
    layer.spoil(100_000)
    prefetching = await prefetched_to(layer, prefetcher, 300_000)
    layer.finish()

    with pytest.raises(DigestMismatch, match="arrived damaged: its tar has"):
        await prefetching

    assert not node.layers.has(layer.name)
    assert not left(node)


@pytest.mark.parametrize("at", [1030, 2060, 2100, -5])
async def test_what_does_not_follow_from_the_tar_is_refused(
    origin: Origin, node: Store, remote: MemoryRemoteStore, prefetcher: LayerFetcher, at: int
) -> None:
    """In the superblock, in the header's flags and diffID, and behind the tar."""
    document = await origin.build(ID, BASE)
    layer = PartialLayer(remote, document.images[0].layers[0])
    content = bytearray(layer.content)
    content[at] ^= 1
    layer.content = bytes(content)
    layer.finish()

    with pytest.raises(ImageCacheError) as caught:
        await prefetch(prefetcher, layer.name)

    assert caught.value.reason in {"StoreCorrupt", "MalformedLayer"}
    assert not node.layers.has(layer.name)
    assert not left(node)


async def test_what_follows_a_tar_without_an_end_is_no_part_of_it(
    origin: Origin, node: Store, remote: MemoryRemoteStore, prefetcher: LayerFetcher
) -> None:
    """It could pass for more entries; whole bundles say how long their tars are, and such a layer waits for that."""
    cut = BASE.rstrip(b"\0")
    cut += bytes(-len(cut) % 512)
    document = await origin.build(ID, cut)
    layer = PartialLayer(remote, document.images[0].layers[0])
    layer.finish()

    with pytest.raises(ImageCacheError) as caught:
        await prefetch(prefetcher, layer.name)

    assert caught.value.reason in {"StoreCorrupt", "MalformedLayer"}
    assert not node.layers.has(layer.name)


async def test_a_layer_that_becomes_one_of_another_name(
    origin: Origin, node: Store, remote: MemoryRemoteStore, prefetcher: LayerFetcher
) -> None:
    """Implied parents: the build finds out at the end that it is right at one position only."""
    document = await origin.build(ID, BASE)
    layer = PartialLayer(remote, document.images[0].layers[0])
    prefetching = await prefetched_to(layer, prefetcher, 200_000)
    layer.abandon()

    with pytest.raises(BlobNotFound):
        await prefetching

    assert not left(node)


async def test_more_than_the_disk_can_spare(
    origin: Origin, node: Store, remote: MemoryRemoteStore, prefetcher: LayerFetcher
) -> None:
    document = await origin.build(ID, BASE)

    with pytest.raises(NoSpace, match="no space to spare"):
        await prefetch(prefetcher, document.images[0].layers[0].name, allowance=300_000)

    assert remote.fetched[document.images[0].layers[0].name] <= 500_000
    assert not left(node)


async def test_cancelled(origin: Origin, node: Store, remote: MemoryRemoteStore, prefetcher: LayerFetcher) -> None:
    document = await origin.build(ID, BASE)
    layer = PartialLayer(remote, document.images[0].layers[0])
    prefetching = await prefetched_to(layer, prefetcher, 200_000)

    prefetching.cancel()
    await asyncio.gather(prefetching, return_exceptions=True)

    assert not left(node)


# builds


@asynccontextmanager
async def prefetched(fetcher: BundleFetcher, bundle_id: str = ID) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(fetcher.builds.prefetch(bundle_id, Allowance(GIB)))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_build_is_prefetched_layer_by_layer_and_kept(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE, APP, tar_of({"own": b"own"}))
    layers = [PartialLayer(remote, layer) for layer in document.images[0].layers]
    fetcher = fetchers()
    async with prefetched(fetcher):
        remote.builds[ID, "amd64"] = tuple(layer.name for layer in layers)
        for layer in reversed(layers):
            layer.grow(6_000)
            layer.finish()
            await until(lambda layer=layer: node.layers.has(layer.name))  # type: ignore[misc]  # bound at once
        node.collect()

        assert {layer.name for layer in layers} == set(node.layers.names()) == fetcher.builds.kept

    node.collect()
    assert not list(node.layers.names())
    assert not fetcher.builds.kept
    assert not left(node)


async def test_nothing_is_fetched_twice_when_the_bundle_is_ready_in_the_middle(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE, APP)
    layers = [PartialLayer(remote, layer) for layer in document.images[0].layers]
    remote.builds[ID, "amd64"] = tuple(layer.name for layer in layers)
    fetcher = fetchers()
    async with prefetched(fetcher):
        for layer in layers:
            layer.grow(300_000)
        await until(lambda: all(size >= 300_000 for size in fetcher.builds.partial.values()) and fetcher.builds.partial)
        fetching = asyncio.create_task(fetch(fetcher))
        await asyncio.sleep(0)
        for layer in layers:
            layer.finish()
        progress = await fetching

    assert same_files(origin, node, document)
    assert remote.fetched == {layer.name: len(layer.content) for layer in layers}
    assert progress[-1] == sum(len(layer.content) for layer in layers)


async def test_what_could_not_be_prefetched_is_fetched(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)
    layer = PartialLayer(remote, document.images[0].layers[0])
    layer.spoil(100_000)
    layer.grow(300_000)
    remote.builds[ID, "amd64"] = (layer.name,)
    fetcher = fetchers()
    async with prefetched(fetcher):
        await until(lambda: fetcher.builds.partial.get(layer.name, 0) >= 300_000)
        layer.finish()
        await fetch(fetcher)

    assert same_files(origin, node, document)


async def test_one_layer_of_two_builds_is_prefetched_once(
    origin: Origin, remote: MemoryRemoteStore, node: Store, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)
    layer = PartialLayer(remote, document.images[0].layers[0])
    remote.builds = {(ID, "amd64"): (layer.name,), (OTHER, "amd64"): (layer.name,)}
    fetcher = fetchers()
    async with prefetched(fetcher), prefetched(fetcher, OTHER):
        layer.grow(300_000)
        await until(lambda: fetcher.builds.partial.get(layer.name, 0) >= 300_000)
        layer.finish()
        await until(lambda: node.layers.has(layer.name))

    assert remote.fetched[layer.name] == len(layer.content)


async def test_a_store_that_is_away_ends_it(
    origin: Origin, remote: MemoryRemoteStore, fetchers: Fetchers, node: Store
) -> None:
    document = await origin.build(ID, BASE)
    layer = PartialLayer(remote, document.images[0].layers[0])
    layer.grow(300_000)
    remote.builds[ID, "amd64"] = (layer.name,)
    fetcher = fetchers()
    async with prefetched(fetcher) as task:
        await until(lambda: fetcher.builds.partial.get(layer.name, 0) >= 200_000)
        remote.down = True
        with pytest.raises(StoreUnreachable):
            await task

    assert not left(node)
