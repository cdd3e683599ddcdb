"""Layers of builds that are still running, from a remote store into a node's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imagecache.builder.worker_pool import WorkerPool
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
from imagecache.fetch.partial_transfer import LayerFollower
from imagecache.fetch.verify import WorkerVerifier
from imagecache.limits import GIB
from imagecache.store.model import LayerName, Space
from imagecache.store.store import Store
from testkit.images import tar_of
from testkit.served import MemoryRemoteStore
from testkit.store import put_layer
from tests.unit.fetch.origin import FOLLOW, Fetchers, Making, Origin
from tests.unit.fetch.test_bundle import ID, NOISE, OTHER, fetch, same_files

BASE = tar_of({"etc": None, "etc/base": NOISE})
APP = tar_of({"opt": None, "opt/app": NOISE[::-1], "opt/.wh.old": b""})
"""Hides something of the layers below, and is right above any."""


def nothing(_size: int) -> None:
    pass


@pytest.fixture
async def follower(node: Store, remote: MemoryRemoteStore) -> AsyncIterator[LayerFollower]:
    async with WorkerPool(2, seldom=True) as pool:
        follower = LayerFollower(node, remote, WorkerVerifier(pool), FOLLOW)
        yield follower
        follower.close()


def follow(follower: LayerFollower, name: LayerName, allowance: int = GIB) -> asyncio.Task[bool]:
    return asyncio.create_task(follower.follow(name, Allowance(allowance), nothing))


def left(node: Store) -> list[Path]:
    return [*node.paths.staging.iterdir(), *node.paths.downloads.iterdir(), *node.paths.build_leases.iterdir()]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - files and counters tell nobody
            await asyncio.sleep(0.001)


async def followed_to(making: Making, follower: LayerFollower, end: int) -> asyncio.Task[bool]:
    """A layer that is made as far as ``end``, and has come as far."""
    making.grow(end)
    following = follow(follower, making.name)
    await until(lambda: making.sent >= end - DATA_START)
    return following


@pytest.mark.parametrize("number", [0, 1], ids=["bottom", "with-whiteouts"])
async def test_a_layer_comes_while_it_is_made(
    origin: Origin, node: Store, remote: MemoryRemoteStore, follower: LayerFollower, number: int
) -> None:
    document = await origin.build(ID, BASE, APP)
    making = Making(remote, document.images[0].layers[number])
    following = follow(follower, making.name)
    for end in (5_000, 70_000, 500_000):
        making.grow(end)
        await until(lambda end=end: making.sent >= end - DATA_START)  # type: ignore[misc]  # bound at once
    making.finish()

    assert await following

    assert node.layers.path(making.name).read_bytes() == making.content
    assert remote.fetched[making.name] == len(making.content)
    assert not left(node)


async def test_a_layer_that_nobody_makes(node: Store, follower: LayerFollower) -> None:
    assert not await follow(follower, LayerName(Space.LAYERS, Digest.sha256(b"nowhere")))
    assert not left(node)


async def test_a_finished_layer(origin: Origin, node: Store, follower: LayerFollower) -> None:
    document = await origin.build(ID, BASE)

    assert await follow(follower, document.images[0].layers[0].name)

    assert node.layers.has(document.images[0].layers[0].name)


async def test_a_layer_that_somebody_else_brings_meanwhile(
    origin: Origin, node: Store, remote: MemoryRemoteStore, follower: LayerFollower
) -> None:
    document = await origin.build(ID, BASE)
    making = Making(remote, document.images[0].layers[0])
    making.grow(300_000)
    with node.layers.lock(making.name):
        following = follow(follower, making.name)
        await until(lambda: remote.fetched[making.name] > 0)
        put_layer(node, making.name, making.content)

    assert await following

    assert remote.fetched[making.name] < 200_000
    assert not left(node)


async def test_a_finished_layer_without_a_tar(node: Store, remote: MemoryRemoteStore, follower: LayerFollower) -> None:
    name = LayerName(Space.LAYERS, Digest.sha256(b"nothing"))
    remote.layers[name] = bytes(DATA_START)

    with pytest.raises(StoreCorrupt, match="it has no tar"):
        await follow(follower, name)

    assert not left(node)


async def test_a_build_that_begins_again_is_not_believed(
    origin: Origin, node: Store, remote: MemoryRemoteStore, follower: LayerFollower
) -> None:
    document = await origin.build(ID, BASE)
    making = Making(remote, document.images[0].layers[0])
    making.spoil(100_000)
    following = await followed_to(making, follower, 300_000)
    making.finish()

    with pytest.raises(DigestMismatch, match="did not arrive as it was made"):
        await following

    assert not node.layers.has(making.name)
    assert not left(node)


@pytest.mark.parametrize("at", [1030, 2060, 2100, -5])
async def test_what_does_not_follow_from_the_tar_is_refused(
    origin: Origin, node: Store, remote: MemoryRemoteStore, follower: LayerFollower, at: int
) -> None:
    """In the superblock, in the header's flags and diffID, and behind the tar."""
    document = await origin.build(ID, BASE)
    making = Making(remote, document.images[0].layers[0])
    content = bytearray(making.content)
    content[at] ^= 1
    making.content = bytes(content)
    making.finish()

    with pytest.raises(ImageCacheError) as caught:
        await follow(follower, making.name)

    assert caught.value.reason in {"StoreCorrupt", "MalformedLayer"}
    assert not node.layers.has(making.name)
    assert not left(node)


async def test_what_follows_a_tar_without_an_end_is_no_part_of_it(
    origin: Origin, node: Store, remote: MemoryRemoteStore, follower: LayerFollower
) -> None:
    """It could pass for more entries; whole bundles say how long their tars are, and such a layer waits for that."""
    cut = BASE.rstrip(b"\0")
    cut += bytes(-len(cut) % 512)
    document = await origin.build(ID, cut)
    making = Making(remote, document.images[0].layers[0])
    making.finish()

    with pytest.raises(ImageCacheError) as caught:
        await follow(follower, making.name)

    assert caught.value.reason in {"StoreCorrupt", "MalformedLayer"}
    assert not node.layers.has(making.name)


async def test_a_layer_that_becomes_one_of_another_name(
    origin: Origin, node: Store, remote: MemoryRemoteStore, follower: LayerFollower
) -> None:
    """Implied parents: the build finds out at the end that it is right at one place only."""
    document = await origin.build(ID, BASE)
    making = Making(remote, document.images[0].layers[0])
    following = await followed_to(making, follower, 200_000)
    making.give_up()

    with pytest.raises(BlobNotFound):
        await following

    assert not left(node)


async def test_more_than_the_disk_can_spare(
    origin: Origin, node: Store, remote: MemoryRemoteStore, follower: LayerFollower
) -> None:
    document = await origin.build(ID, BASE)

    with pytest.raises(NoSpace, match="no space to spare"):
        await follow(follower, document.images[0].layers[0].name, allowance=300_000)

    assert remote.fetched[document.images[0].layers[0].name] <= 500_000
    assert not left(node)


async def test_cancelled(origin: Origin, node: Store, remote: MemoryRemoteStore, follower: LayerFollower) -> None:
    document = await origin.build(ID, BASE)
    making = Making(remote, document.images[0].layers[0])
    following = await followed_to(making, follower, 200_000)

    following.cancel()
    await asyncio.gather(following, return_exceptions=True)

    assert not left(node)


# builds


@asynccontextmanager
async def followed(fetcher: BundleFetcher, bundle_id: str = ID) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(fetcher.builds.follow(bundle_id, Allowance(GIB)))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_build_is_followed_layer_by_layer_and_kept(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE, APP, tar_of({"own": b"own"}))
    makings = [Making(remote, layer) for layer in document.images[0].layers]
    fetcher = fetchers()
    async with followed(fetcher):
        remote.builds[ID] = tuple(making.name for making in makings)
        for making in reversed(makings):
            making.grow(6_000)
            making.finish()
            await until(lambda making=making: node.layers.has(making.name))  # type: ignore[misc]  # bound at once
        node.collect()

        assert {making.name for making in makings} == set(node.layers.names()) == fetcher.builds.followed

    node.collect()
    assert not list(node.layers.names())
    assert not fetcher.builds.followed
    assert not left(node)


async def test_nothing_is_fetched_twice_when_the_bundle_is_ready_in_the_middle(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE, APP)
    makings = [Making(remote, layer) for layer in document.images[0].layers]
    remote.builds[ID] = tuple(making.name for making in makings)
    fetcher = fetchers()
    async with followed(fetcher):
        for making in makings:
            making.grow(300_000)
        await until(lambda: all(size >= 300_000 for size in fetcher.builds.coming.values()) and fetcher.builds.coming)
        fetching = asyncio.create_task(fetch(fetcher))
        await asyncio.sleep(0)
        for making in makings:
            making.finish()
        progress = await fetching

    assert same_files(origin, node, document)
    assert remote.fetched == {making.name: len(making.content) for making in makings}
    assert progress[-1] == sum(len(making.content) for making in makings)


async def test_what_a_follower_could_not_have_is_fetched(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)
    making = Making(remote, document.images[0].layers[0])
    making.spoil(100_000)
    making.grow(300_000)
    remote.builds[ID] = (making.name,)
    fetcher = fetchers()
    async with followed(fetcher):
        await until(lambda: fetcher.builds.coming.get(making.name, 0) >= 300_000)
        making.finish()
        await fetch(fetcher)

    assert same_files(origin, node, document)


async def test_one_layer_of_two_builds_comes_once(
    origin: Origin, remote: MemoryRemoteStore, node: Store, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)
    making = Making(remote, document.images[0].layers[0])
    remote.builds = {ID: (making.name,), OTHER: (making.name,)}
    fetcher = fetchers()
    async with followed(fetcher), followed(fetcher, OTHER):
        making.grow(300_000)
        await until(lambda: fetcher.builds.coming.get(making.name, 0) >= 300_000)
        making.finish()
        await until(lambda: node.layers.has(making.name))

    assert remote.fetched[making.name] == len(making.content)


async def test_a_store_that_is_away_ends_it(
    origin: Origin, remote: MemoryRemoteStore, fetchers: Fetchers, node: Store
) -> None:
    document = await origin.build(ID, BASE)
    making = Making(remote, document.images[0].layers[0])
    making.grow(300_000)
    remote.builds[ID] = (making.name,)
    fetcher = fetchers()
    async with followed(fetcher) as task:
        await until(lambda: fetcher.builds.coming.get(making.name, 0) >= 200_000)
        remote.down = True
        with pytest.raises(StoreUnreachable):
            await task

    assert not left(node)
