"""A cluster as an agent sees one: the API's fake over HTTP, and a store that a controller would have filled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from imagecache.api.nodes import CacheState, NodeStatus, parse_status
from imagecache.errors import ObjectNotFound
from imagecache.kube.api import Object
from imagecache.kube.object_files import ObjectFiles
from imagecache.kube.resources import IMAGE_CACHES, NODE_IMAGE_CACHES, NODES
from imagecache.store.paths import StorePaths
from imagecache.store.store import Store
from testkit.kube import FakeKube
from testkit.kube_server import KubeServer
from testkit.peers.agent import AgentService
from testkit.peers.containerd import Containerd
from testkit.peers.node import CachingNode
from testkit.peers.programs import environment
from testkit.served import Served

_SECONDS = 60


@dataclass
class Cluster:
    """An API, and a store that the controller of a cluster would have filled."""

    kube: FakeKube
    server: KubeServer
    origin: CachingNode
    served: Served
    directory: Path

    def environment(self, *, shared: bool = False) -> Mapping[str, str]:
        """For the agent of node ``worker``."""
        config = {
            "clusters": [{"name": "x", "cluster": {"server": self.server.url}}],
            "users": [{"name": "x", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "current-context": "x",
        }
        (self.directory / "kubeconfig").write_text(json.dumps(config))
        return {
            "IMAGECACHE_NODE_NAME": "worker",
            "IMAGECACHE_KUBECONFIG": str(self.directory / "kubeconfig"),
            "IMAGECACHE_STORE_URL": "" if shared else self.served.url,
            "IMAGECACHE_STORE_TOKEN": str(self.served.token_file),
            "IMAGECACHE_STORE_CA": str(self.served.certificate),
            "IMAGECACHE_RESERVE": "0",
        }

    async def cache(self, name: str, image: str) -> str:
        """An ImageCache that is ready; the id of its bundle."""
        known = set(Store(self.origin.store).bundles.ids()) if self.origin.store.exists() else set()
        await asyncio.to_thread(self.origin.create, name, [image], "--no-attach")
        (bundle_id,) = set(Store(self.origin.store).bundles.ids()) - known
        await self.kube.create(IMAGE_CACHES, {"metadata": {"name": name}, "spec": {"images": [image]}})
        own = ObjectFiles(StorePaths(self.origin.store)).cache(name)  # its bundles' ids are of its uid
        await self.kube.patch(IMAGE_CACHES, name, {"metadata": {"uid": own.metadata.uid}})
        assert own.status is not None
        written = msgspec.to_builtins(own.status)
        status: Object = {key: written[key] for key in ("phase", "progress", "imageCacheId", "bundleDigest", "images")}
        await self.kube.patch(IMAGE_CACHES, name, {"status": status}, subresource="status")
        return bundle_id

    async def reported(self) -> NodeStatus:
        try:
            found = await self.kube.get(NODE_IMAGE_CACHES, "worker")
        except ObjectNotFound:
            return NodeStatus()
        return parse_status(found.get("status") or {})

    async def states(self) -> dict[str, CacheState]:
        return {entry.name: entry.state for entry in (await self.reported()).caches}

    async def until(self, condition: Callable[[], Awaitable[object]]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SECONDS
        while not await condition():
            assert loop.time() < deadline, await self.reported()
            await asyncio.sleep(0.05)

    async def until_states(self, **states: CacheState) -> None:
        async def so() -> bool:
            return await self.states() == states

        await self.until(so)


@asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[Cluster]:
    """With one node, ``worker``, which waits for its agent."""
    origin = CachingNode(directory / "origin", sandbox_image="none")
    Store.open(origin.store)
    kube = FakeKube()
    taints: Object = {"taints": [{"key": "imagecache.dev/not-ready", "effect": "NoSchedule"}]}
    await kube.create(NODES, {"metadata": {"name": "worker", "labels": {"pool": "a"}}, "spec": taints})
    async with KubeServer(kube) as server, Served(origin.store, directory / "tls") as served:
        yield Cluster(kube, server, origin, served, directory)


@dataclass
class PrepullAgent:
    """The agent of ``worker`` in prepull mode, as a process."""

    cluster: Cluster
    service: AgentService
    environ: dict[str, str]

    async def start(self) -> None:
        await asyncio.to_thread(self.service.start, self.environ)

    async def delete_while_away(self, name: str) -> None:
        """Delete the cache while no agent runs; the next one takes its images back."""
        await asyncio.to_thread(self.service.kill)
        await self.cluster.kube.delete(IMAGE_CACHES, name)
        await self.start()
        await self.cluster.until_states()


@asynccontextmanager
async def prepull_agent(cluster: Cluster, containerd: Containerd, directory: Path) -> AsyncIterator[PrepullAgent]:
    """Not started; its store is the served one."""
    environ = {
        **environment(),
        **cluster.environment(),
        "IMAGECACHE_MODE": "prepull",
        "IMAGECACHE_STORE": str(directory / "store"),
        "IMAGECACHE_ADDRESS": str(containerd.address),
        "IMAGECACHE_METRICS_ADDRESS": "",
    }
    service = AgentService(directory, None, ["--agent-root", directory / "root"])
    try:
        yield PrepullAgent(cluster, service, environ)
    finally:
        await asyncio.to_thread(service.close)
