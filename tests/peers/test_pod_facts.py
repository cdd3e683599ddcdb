"""What the agent tells of pods, with real containerds: layers from caches, bytes pulled, in each mode and version."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imagecache.api import columns
from imagecache.api.nodes import CacheState
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.resources import EVENTS
from testkit.images import busybox_tar, make_image, tar_of
from testkit.oci_layout import Image
from testkit.peers.cluster import Cluster
from testkit.peers.containerd import Version
from testkit.peers.cri import Cri, Pod
from testkit.peers.node import CachingNode, Mode
from testkit.peers.registry import Registry, free_port

pytestmark = pytest.mark.peers
VARIANTS: list[tuple[Version, Mode]] = [("system", "proxy"), ("2.4", "proxy"), ("2.4", "native")]
SLEEP = ("/bin/sleep", "1000000")
DATA = tar_of({"srv": None, "srv/data": b"from the cache\n"})
TOP = tar_of({"srv": None, "srv/top": bytes(range(256)) * 8})


@pytest.fixture(params=VARIANTS, ids=["-".join(variant) for variant in VARIANTS])
async def node(
    request: pytest.FixtureRequest, directory: Path, cluster: Cluster, pause: str
) -> AsyncIterator[CachingNode]:
    version, mode = request.param
    running = CachingNode(directory / "node", version, mode, sandbox_image=pause)
    running.environ |= {**cluster.environment(), "IMAGECACHE_METRICS_ADDRESS": f"127.0.0.1:{free_port()}"}
    await asyncio.to_thread(running.start)
    async with Cri(running.address) as cri:
        await cri.pull(pause)
    await asyncio.to_thread(running.stop_agent)
    await asyncio.to_thread(running.start_agent)  # it was there before containerd, and has yet to hear of starts
    yield running
    await asyncio.to_thread(running.close)


@pytest.fixture
async def cri(node: CachingNode) -> AsyncIterator[Cri]:
    async with Cri(node.address) as client:
        yield client


@pytest.fixture
def app(directory: Path, registry: Registry) -> str:
    """Of two layers. busybox is not the bottom one, as it is of the pause image, which was pulled before."""
    return registry.push(f"{directory.name.lower()}/app:1", make_image(directory / "app", [DATA, busybox_tar()]))


@pytest.fixture
def half(directory: Path) -> Image:
    """Those two, and one on top of them."""
    return make_image(directory / "half", [DATA, busybox_tar(), TOP])


@asynccontextmanager
async def pod(cri: Cri, name: str, *images: str, pull: bool = False, attempt: int = 0) -> AsyncIterator[Pod]:
    """Its sandbox first, then its images, then its containers, as kubelet does it."""
    made = await cri.run_pod(name)
    try:
        for number, image in enumerate(images):
            if pull:
                await cri.pull(image)
            container = await cri.create_container(made, image, SLEEP, name=f"c{number}", attempt=attempt)
            await cri.start(container)
        yield made
    finally:
        await cri.remove_pod(made)


async def events(cluster: Cluster) -> dict[str, Object]:
    """By the pod's name: the only event on it."""
    found = (await cluster.kube.list(EVENTS)).items
    by_pod = {objects.text(item, "involvedObject", "name"): item for item in found}
    assert len(by_pod) == len(found)
    return by_pod


async def until_told(cluster: Cluster, name: str) -> str:
    async def told() -> bool:
        return name in await events(cluster)

    await cluster.until(told)
    return objects.text((await events(cluster))[name], "message")


def metric(node: CachingNode, name: str) -> float:
    with urllib.request.urlopen(f"http://{node.environ['IMAGECACHE_METRICS_ADDRESS']}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.search(rf"^imagecache_{re.escape(name)} (.+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def source(name: str) -> str:
    return f'pod_layers_total{{source="{name}"}}'


def timed(node: CachingNode, text: str) -> str:
    """The pattern of a message: our snapshotter knows the time, containerd's own does not tell it."""
    return re.escape(text) + (r", \d+(\.\d)? ms" if node.mode == "proxy" else "")


async def test_a_pod_of_a_cached_image(cluster: Cluster, node: CachingNode, cri: Cri, app: str) -> None:
    await cluster.cache("a", app)
    await cluster.until_states(a=CacheState.READY)
    async with pod(cri, "again", app, attempt=1), pod(cri, "web-0", app, app) as made:
        assert re.fullmatch(timed(node, "2/2 layers from cache, 0 B pulled"), await until_told(cluster, "web-0"))

        told = await events(cluster)
        assert told.keys() == {"web-0"}, "a container that starts again is told nothing of"
        about = {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "web-0"}
        assert told["web-0"]["involvedObject"] == {**about, "uid": made.config.metadata.uid}
        assert told["web-0"]["source"] == {"component": "imagecache-agent", "host": "worker"}
    assert await asyncio.to_thread(metric, node, source("cache")) == 2
    assert await asyncio.to_thread(metric, node, "pod_snapshot_seconds_count") == (node.mode == "proxy")
    assert await asyncio.to_thread(metric, node, "pod_starts_dropped_total") == 0


async def test_a_pod_that_used_no_cache(cluster: Cluster, node: CachingNode, cri: Cri, app: str) -> None:
    async with pod(cri, "web-0", app, pull=True):

        async def counted() -> bool:
            return await asyncio.to_thread(metric, node, source("pulled")) == 2

        await cluster.until(counted)
        assert await asyncio.to_thread(metric, node, "pod_pulled_bytes_total") > 1000
    assert await events(cluster) == {}


async def test_an_image_that_was_pulled_before_its_cache_came(
    cluster: Cluster, node: CachingNode, cri: Cri, app: str
) -> None:
    """Its snapshots stay what they are: the pod reads nothing of the cache."""
    await cri.pull(app)
    await cluster.cache("a", app)
    await cluster.until_states(a=CacheState.READY)
    async with pod(cri, "web-0", app):

        async def counted() -> bool:
            return await asyncio.to_thread(metric, node, source("present")) == 2

        await cluster.until(counted)
    assert await asyncio.to_thread(metric, node, source("pulled")) == 0
    assert await events(cluster) == {}


async def test_an_image_whose_lower_layers_are_cached(
    cluster: Cluster, node: CachingNode, cri: Cri, app: str, half: Image, registry: Registry
) -> None:
    await cluster.cache("a", app)
    await cluster.until_states(a=CacheState.READY)
    name = registry.push(app.partition("/")[2].replace("/app:1", "/half:1"), half)
    size = half.layers[-1].size
    async with pod(cri, "web-0", name, pull=True):
        wanted = f"2/3 layers from cache, {columns.size(size, blank=' ')} pulled"
        assert re.fullmatch(timed(node, wanted), await until_told(cluster, "web-0"))
    assert await asyncio.to_thread(metric, node, "pod_pulled_bytes_total") == size
    async with pod(cri, "web-1", name):
        wanted = "2/3 layers from cache, 0 B pulled"
        assert re.fullmatch(timed(node, wanted), await until_told(cluster, "web-1"))


async def test_agent_and_containerd_restart(cluster: Cluster, node: CachingNode, cri: Cri, app: str) -> None:
    await cluster.cache("a", app)
    await cluster.until_states(a=CacheState.READY)
    async with pod(cri, "web-0", app):
        await until_told(cluster, "web-0")
        await asyncio.to_thread(node.agent.kill)
        await asyncio.to_thread(node.start_agent)
        await cluster.until_states(a=CacheState.READY)
        await asyncio.to_thread(node.containerd.restart)

        async def follows() -> bool:
            """Whether starts are heard again: those before are told by nobody."""
            name = f"probe-{len(probes)}"
            probes.append(name)
            async with pod(cri, name, app):
                for _ in range(20):
                    await asyncio.sleep(0.5)
                    if name in await events(cluster):
                        return True
            return False

        probes: list[str] = []
        await cluster.until(follows)
        assert (await events(cluster)).keys() <= {"web-0", *probes}


async def test_events_switched_off(cluster: Cluster, node: CachingNode, cri: Cri, app: str) -> None:
    await asyncio.to_thread(node.stop_agent)
    node.environ["IMAGECACHE_POD_EVENTS"] = "false"
    await asyncio.to_thread(node.start_agent)
    await cluster.cache("a", app)
    await cluster.until_states(a=CacheState.READY)
    async with pod(cri, "web-0", app):

        async def counted() -> bool:
            return await asyncio.to_thread(metric, node, source("cache")) == 2

        await cluster.until(counted)
    assert await events(cluster) == {}
    assert await asyncio.to_thread(metric, node, 'pod_events_total{outcome="told"}') == 0
