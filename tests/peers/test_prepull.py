"""Prepull mode on real containerds: the suite of its runtime, and the agent as a process."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.message import Message
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

from imagecache._proto.cri import runtime_pb2 as pb
from imagecache.api.nodes import CacheState
from imagecache.containerd.cri import CriClient
from imagecache.errors import ContainerdUnavailable, PullFailed
from imagecache.store.store import Store
from testkit.images import busybox_image, tar_of
from testkit.peers.cluster import Cluster, PrepullAgent, prepull_agent
from testkit.peers.containerd import Containerd
from testkit.peers.cri import Cri
from testkit.peers.processes import wait_until
from testkit.peers.registry import Registry
from testkit.suites.runtime import RuntimeSuite

pytestmark = pytest.mark.peers
HIDDEN = tar_of({"etc": None, "etc/.wh.group": b"", "srv": None, "srv/data": b"second layer\n"})
"""A layer that hides a file of the layer below."""
LARGE_FILE = bytes(range(256)) * 100_000
"""More than one message to containerd holds."""
LARGE = tar_of({"srv": None, "srv/large": LARGE_FILE})
READ = ["sh", "-c", "cat /srv/data && ! test -e /etc/group && sha256sum </srv/large && echo new > /srv/new"]
CRI: dict[str, tuple[type[Message], type[Message]]] = {
    "ImageService/PullImage": (pb.PullImageRequest, pb.PullImageResponse),
    "ImageService/ImageStatus": (pb.ImageStatusRequest, pb.ImageStatusResponse),
    "ImageService/RemoveImage": (pb.RemoveImageRequest, pb.RemoveImageResponse),
    "RuntimeService/ListContainers": (pb.ListContainersRequest, pb.ListContainersResponse),
}
"""What prepull mode asks a runtime."""


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


class CriAlone:
    """A runtime that knows CRI and nothing else, as CRI-O: a real containerd answers for it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __mapping__(self) -> dict[str, Handler]:
        return {f"/runtime.v1.{name}": self._handler(f"/runtime.v1.{name}", *types) for name, types in CRI.items()}

    def _handler(self, path: str, request: type[Message], reply: type[Message]) -> Handler:
        method: UnaryUnaryMethod[Message, Message] = UnaryUnaryMethod(self._channel, path, request, reply)

        async def handle(stream: Stream[Message, Message]) -> None:
            asked = await stream.recv_message()
            assert asked is not None
            await stream.send_message(await method(asked, timeout=60))

        return Handler(handle, Cardinality.UNARY_UNARY, request, reply)


@asynccontextmanager
async def cri_alone(behind: Path, address: Path) -> AsyncIterator[None]:
    channel = Channel(path=str(behind))
    server = Server([CriAlone(channel)])
    await server.start(path=str(address))
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()
        channel.close()


@pytest.fixture
async def agent(cluster: Cluster, containerd: Containerd, directory: Path) -> AsyncIterator[PrepullAgent]:
    async with prepull_agent(cluster, containerd, directory) as made:
        yield made


@pytest.mark.parametrize("shared", [False, True], ids=["served", "shared"])
async def test_containerd_unpacks_the_clusters_layers_without_a_registry(
    agent: PrepullAgent,
    containerd: Containerd,
    cri: Cri,
    directory: Path,
    pause: str,
    registry: Registry,
    *,
    shared: bool,
) -> None:
    image = busybox_image(directory / "app", HIDDEN, LARGE)
    name = registry.push(f"{directory.name}/unpacked:1", image)
    if shared:
        agent.environ |= {**agent.cluster.environment(shared=True), "IMAGECACHE_STORE": str(agent.cluster.origin.store)}
    bundle_id = await agent.cluster.cache("a", name)
    layers = Store(agent.cluster.origin.store).bundles.get(bundle_id).images[0].layers[1:]  # pause may have the first
    await cri.pull(pause)
    await asyncio.to_thread(registry.stop)
    try:
        await agent.start()
        await agent.cluster.until_states(a=CacheState.READY)
        assert (await agent.cluster.reported()).mode == "prepull"
        found = await cri.image_status(name)
        assert found is not None
        assert not found.pinned
        content = containerd.ctr("-n", "k8s.io", "content", "ls", "-q").split()
        assert not {str(digest) for layer in layers for digest in (layer.blob.digest, layer.diff_id)} & set(content)
        assert {str(layer.chain_id) for layer in layers} <= unpacked(containerd)
        assert await cri.run(name, READ) == f"second layer\n{hashlib.sha256(LARGE_FILE).hexdigest()}  -\n"
        if not shared:
            assert not list((directory / "store" / "layers").rglob("*.erofs"))

        await agent.delete_while_away("a")
        await cri.until_absent(name)
        gone = {str(layer.chain_id) for layer in layers}
        assert await asyncio.to_thread(wait_until, lambda: not gone & unpacked(containerd), seconds=30, every=0.2)
    finally:
        await asyncio.to_thread(registry.start)


async def test_after_a_failure_only_what_is_missing_is_fetched(
    agent: PrepullAgent, containerd: Containerd, cri: Cri, directory: Path, pause: str, registry: Registry
) -> None:
    name = registry.push(f"{directory.name}/again:1", busybox_image(directory / "app", HIDDEN, LARGE))
    bundle_id = await agent.cluster.cache("a", name)
    store = Store(agent.cluster.origin.store)
    _, hidden, large = store.bundles.get(bundle_id).images[0].layers
    away = directory / "away"
    store.layers.path(large.name).rename(away)
    await cri.pull(pause)
    await agent.start()

    async def failed() -> bool:
        (entry,) = (await agent.cluster.reported()).caches or (None,)
        return entry is not None and entry.reason == "BlobNotFound"

    await agent.cluster.until(failed)
    await asyncio.to_thread(agent.service.kill)  # nor does it matter that the agent is another one
    collect(containerd)
    assert {str(hidden.chain_id), str(large.chain_id)} & unpacked(containerd) == {str(hidden.chain_id)}

    away.rename(store.layers.path(large.name))
    store.layers.path(hidden.name).unlink()  # it is not read again
    await agent.start()
    await agent.cluster.until_states(a=CacheState.READY)
    assert await cri.run(name, READ) == f"second layer\n{hashlib.sha256(LARGE_FILE).hexdigest()}  -\n"


async def test_what_a_failed_attach_has_unpacked_goes_with_its_cache(
    agent: PrepullAgent, containerd: Containerd, directory: Path, registry: Registry
) -> None:
    name = registry.push(f"{directory.name}/gone:1", busybox_image(directory / "app", HIDDEN, LARGE))
    bundle_id = await agent.cluster.cache("a", name)
    store = Store(agent.cluster.origin.store)
    _, hidden, large = store.bundles.get(bundle_id).images[0].layers
    store.layers.path(large.name).unlink()
    await agent.start()
    chain = str(hidden.chain_id)
    assert await asyncio.to_thread(wait_until, lambda: chain in unpacked(containerd), seconds=30, every=0.1)
    await agent.delete_while_away("a")
    assert await asyncio.to_thread(wait_until, lambda: chain not in unpacked(containerd), seconds=30, every=0.2)


async def test_another_runtime_pulls(
    agent: PrepullAgent, containerd: Containerd, cri: Cri, directory: Path, name: str
) -> None:
    socket = directory / "cri.sock"
    agent.environ["IMAGECACHE_ADDRESS"] = str(socket)
    await agent.cluster.cache("a", name)
    async with cri_alone(containerd.address, socket):
        await agent.start()
        await agent.cluster.until_states(a=CacheState.READY)
        assert await cri.image_status(name) is not None
        assert await cri.run(name, ["cat", "/srv/data"]) == "pulled\n"
        await agent.delete_while_away("a")
        await cri.until_absent(name)
        await asyncio.to_thread(agent.service.close)  # before its runtime


def collect(containerd: Containerd) -> None:
    """Have containerd remove what nothing keeps."""
    containerd.ctr("-n", "k8s.io", "leases", "create", "--id", "collected")
    containerd.ctr("-n", "k8s.io", "leases", "delete", "--sync", "collected")


def unpacked(containerd: Containerd) -> set[str]:
    """Names in the list of CRI's snapshots."""
    return set(containerd.ctr("-n", "k8s.io", "snapshots", "--snapshotter", "overlayfs", "ls").split())
