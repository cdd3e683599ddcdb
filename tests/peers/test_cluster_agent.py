"""The agent of a cluster's node as a process: real containerds, a store served over HTTPS, a fake Kubernetes API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imagecache.api.nodes import CacheState, is_holder_of
from imagecache.kube import objects
from imagecache.kube.resources import IMAGE_CACHES, NODES
from imagecache.store.store import Store
from testkit.images import busybox_image, tar_of
from testkit.peers.cluster import Cluster
from testkit.peers.containerd import Version
from testkit.peers.cri import Cri
from testkit.peers.node import CachingNode, Mode
from testkit.peers.registry import Registry

pytestmark = pytest.mark.peers
VARIANTS: list[tuple[Version, Mode]] = [("system", "proxy"), ("2.4", "native")]
DATA = tar_of({"srv": None, "srv/data": b"from the cache\n"})


@pytest.fixture(params=VARIANTS, ids=["-".join(variant) for variant in VARIANTS])
async def node(
    request: pytest.FixtureRequest, directory: Path, cluster: Cluster, pause: str
) -> AsyncIterator[CachingNode]:
    version, mode = request.param
    running = CachingNode(directory / "node", version, mode, sandbox_image=pause)
    running.environ |= cluster.environment()
    await asyncio.to_thread(running.start)
    async with Cri(running.address) as cri:
        await cri.pull(pause)
    yield running
    await asyncio.to_thread(running.close)


@pytest.fixture
def app(directory: Path, registry: Registry) -> str:
    return registry.push(f"{directory.name.lower()}/app:1", busybox_image(directory / "app", DATA))


async def test_a_cache_comes_runs_and_goes(cluster: Cluster, node: CachingNode, app: str, registry: Registry) -> None:
    bundle_id = await cluster.cache("a", app)
    await cluster.until_states(a=CacheState.READY)
    status = await cluster.reported()
    assert status.mode == node.mode
    assert status.caches[0].bytes_done == status.caches[0].bytes_total > 0

    async def untainted() -> bool:
        return not objects.at(await cluster.kube.get(NODES, "worker"), "spec", "taints")

    await cluster.until(untainted)
    await asyncio.to_thread(registry.stop)
    try:
        async with Cri(node.address) as cri:
            assert await cri.image_status(app) is not None
            async with cri.running(app) as container:
                await cluster.kube.delete(IMAGE_CACHES, "a")
                await cluster.until_states()
                await cri.until_absent(app)
                done = await cri.exec_sync(container, ["cat", "/srv/data"])
                assert done.stdout == "from the cache\n"
                store = Store(node.store)

                async def deleted() -> bool:  # the report comes first: nobody should count on the cache any more
                    return bundle_id not in store.bundles.ids()

                await cluster.until(deleted)
                assert list(store.layers.names())

            async def collected() -> bool:
                return not list(store.layers.names())

            await cluster.until(collected)
    finally:
        await asyncio.to_thread(registry.start)


async def test_killed_and_started_again(cluster: Cluster, node: CachingNode, app: str) -> None:
    await cluster.cache("a", app)
    await cluster.until_states(a=CacheState.READY)
    await asyncio.to_thread(node.agent.kill)
    await cluster.kube.delete(IMAGE_CACHES, "a")
    await asyncio.to_thread(node.start_agent)

    await cluster.until_states()

    async with Cri(node.address) as cri:
        await cri.until_absent(app)


async def test_a_store_and_an_api_that_come_later(cluster: Cluster, node: CachingNode, app: str) -> None:
    """On a host the agent runs before any credential is there; containerd works all the same."""
    kubeconfig, token = cluster.directory / "kubeconfig", cluster.served.token_file
    saved = kubeconfig.read_text(), token.read_text()
    await asyncio.to_thread(node.stop_agent)
    kubeconfig.unlink()
    token.unlink()
    await asyncio.to_thread(node.start_agent)
    await cluster.cache("a", app)
    async with Cri(node.address) as cri:
        await cri.pull(app)
        assert (await cri.run(app, ["cat", "/srv/data"])) == "from the cache\n"

    kubeconfig.write_text(saved[0])
    await cluster.until_states(a=CacheState.FAILED)
    assert (await cluster.reported()).caches[0].reason == "StoreRefused"
    token.write_text(saved[1])

    await cluster.until_states(a=CacheState.READY)


async def test_a_directory_that_both_share(cluster: Cluster, directory: Path, app: str, pause: str) -> None:
    bundle_id = await cluster.cache("a", app)
    node = CachingNode(directory / "node", sandbox_image=pause, store=cluster.origin.store)
    node.environ |= cluster.environment(shared=True)
    await asyncio.to_thread(node.start)
    try:
        await cluster.until_states(a=CacheState.READY)
        async with Cri(node.address) as cri:
            await cri.pull(pause)
            assert (await cri.run(app, ["cat", "/srv/data"])) == "from the cache\n"
            store = Store(cluster.origin.store)
            holders = {holder for names in store.leases.leased().values() for holder in names}
            assert {is_holder_of("worker", holder) for holder in holders} == {True}
            await cluster.kube.delete(IMAGE_CACHES, "a")
            await cluster.until_states()
            await cri.until_absent(app)
            assert store.bundles.ids() == [bundle_id]
            assert list(store.layers.names())
    finally:
        await asyncio.to_thread(node.close)
