"""Prepull mode on real containerds: the suite of its runtime, and the agent as a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imagecache.api.nodes import CacheState
from imagecache.containerd.cri import CriClient
from imagecache.errors import ContainerdUnavailable, PullFailed
from imagecache.kube.resources import IMAGE_CACHES
from testkit.images import busybox_image, tar_of
from testkit.peers.agent import AgentService
from testkit.peers.containerd import Containerd
from testkit.peers.cri import Cri
from testkit.peers.programs import environment
from testkit.peers.registry import Registry
from testkit.suites.runtime import RuntimeSuite
from tests.peers.cluster import Cluster

pytestmark = pytest.mark.peers


@pytest.fixture
def name(directory: Path, registry: Registry) -> str:
    image = busybox_image(directory / "app", tar_of({"srv": None, "srv/data": b"pulled\n"}))
    return registry.push(f"{directory.name.lower()}/app:1", image)


@pytest.fixture
async def runtime(containerd: Containerd) -> AsyncIterator[CriClient]:
    client = CriClient(containerd.address)
    yield client
    client.close()


class TestCriClient(RuntimeSuite):
    @pytest.fixture
    def absent(self, name: str) -> str:
        return f"{name}-none"

    async def test_containers_are_in_use(self, runtime: CriClient, name: str, cri: Cri) -> None:
        await runtime.pull(name)
        found = await runtime.image(name)
        assert found is not None
        async with cri.running(name):
            assert await runtime.in_use() & {found.id, *found.names}

    async def test_a_registry_that_is_away_is_not_a_runtime_that_is_away(
        self, runtime: CriClient, name: str, registry: Registry, containerd: Containerd
    ) -> None:
        await asyncio.to_thread(registry.stop)
        try:
            with pytest.raises(PullFailed):
                await runtime.pull(name)
        finally:
            await asyncio.to_thread(registry.start)
        await asyncio.to_thread(containerd.stop)
        with pytest.raises(ContainerdUnavailable):
            await runtime.pull(name)


async def test_the_agent_has_the_runtime_pull(
    cluster: Cluster, containerd: Containerd, cri: Cri, directory: Path, name: str
) -> None:
    store = directory / "store"
    environ = {
        **environment(),
        **cluster.environment(),
        "IMAGECACHE_MODE": "prepull",
        "IMAGECACHE_STORE": str(store),
        "IMAGECACHE_ADDRESS": str(containerd.address),
        "IMAGECACHE_METRICS_ADDRESS": "",
    }
    agent = AgentService(directory, None, ["--store", store])
    await cluster.cache("a", name)
    await asyncio.to_thread(agent.start, environ)
    try:
        await cluster.until_states(a=CacheState.READY)
        assert (await cluster.reported()).mode == "prepull"
        assert await cri.image_status(name) is not None
        assert not list((store / "layers").rglob("*.erofs"))
        assert await cri.run(name, ["cat", "/srv/data"]) == "pulled\n"

        await asyncio.to_thread(agent.kill)
        await cluster.kube.delete(IMAGE_CACHES, "a")
        await asyncio.to_thread(agent.start, environ)
        await cluster.until_states()
        assert await cri.image_status(name) is None
    finally:
        await asyncio.to_thread(agent.close)
