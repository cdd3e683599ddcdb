"""ImageCaches, our Node and our report over HTTP, with the fake API behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TypeVar

import pytest

from imagecache.agent.dependencies import Node
from imagecache.agent.kubernetes import KubeCaches, KubeNodes, KubeReporter
from imagecache.api.ids import derived_cache_id
from imagecache.api.nodes import CacheState, NodeCache, NodeStatus, parse_status
from imagecache.api.yamltext import JSON
from imagecache.errors import KubernetesError, KubernetesUnavailable, ObjectConflict, ObjectNotFound
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import Connection
from imagecache.kube.resources import IMAGE_CACHES, NODE_IMAGE_CACHES, NODES, Resource
from imagecache.oci.descriptor import Platform
from testkit.kube import FakeKube
from testkit.kube_server import KubeServer

ID = derived_cache_id("of-the-test")
DIGEST = "sha256:" + "0" * 64
HOST = Platform(os="linux", architecture="amd64")
_SECONDS = 10
_T = TypeVar("_T")


@pytest.fixture
def api() -> FakeKube:
    return FakeKube()


@pytest.fixture
async def kube(api: FakeKube) -> AsyncIterator[KubeClient]:
    async with KubeServer(api) as server, KubeClient(Connection(server.url)) as client:
        yield client


async def following(watch: AsyncIterator[_T]) -> _T:
    async with asyncio.timeout(_SECONDS):
        return await anext(watch)


async def put_cache(api: FakeKube, name: str) -> None:
    await api.create(IMAGE_CACHES, {"metadata": {"name": name}, "spec": {"images": ["x"]}})
    await api.patch(IMAGE_CACHES, name, {"metadata": {"uid": "of-the-test"}})
    patch: Object = {"status": {"phase": "Ready", "imageCacheId": ID, "bundleDigest": DIGEST, "progress": "100%"}}
    await api.patch(IMAGE_CACHES, name, patch, subresource="status")


async def put_node(api: FakeKube, name: str = "worker", *, taints: list[JSON] | None = None) -> Object:
    metadata: Object = {"name": name, "labels": {"pool": "gpu"}}
    return await api.create(NODES, {"metadata": metadata, "spec": {"taints": taints} if taints else {}})


async def test_the_first_list_is_complete_even_when_it_is_empty(api: FakeKube, kube: KubeClient) -> None:
    async with aclosing(KubeCaches(kube).watch()) as watch:
        assert await following(watch) == []
        for name in ("a", "b"):
            await put_cache(api, name)
        caches = await following(watch)
        while len(caches) < 2 or not all(cache.ready for cache in caches):
            caches = await following(watch)
        assert {cache.name: cache.id for cache in caches} == {"a": ID, "b": ID}


async def test_a_list_of_many_is_seen_at_once(api: FakeKube, kube: KubeClient) -> None:
    for number in range(1200):
        await api.create(IMAGE_CACHES, {"metadata": {"name": f"c{number}"}, "spec": {"images": ["x"]}})
    async with aclosing(KubeCaches(kube).watch()) as watch:
        assert len(await following(watch)) == 1200


async def test_an_api_server_that_fails_is_no_empty_list(api: FakeKube, kube: KubeClient) -> None:
    await put_cache(api, "a")
    down, asked = True, asyncio.Event()

    def failure(verb: str, resource: Resource, name: str) -> KubernetesError | None:
        del verb, resource, name
        asked.set()
        return KubernetesUnavailable("etcd has no leader") if down else None

    api.failure = failure
    async with aclosing(KubeCaches(kube).watch()) as watch:
        waiting = asyncio.create_task(following(watch))
        await asked.wait()
        assert not waiting.done()
        down = False
        assert [cache.name for cache in await waiting] == ["a"]


async def test_an_object_deleted_between_two_watches(api: FakeKube, kube: KubeClient) -> None:
    await put_cache(api, "a")
    await put_cache(api, "b")
    async with aclosing(KubeCaches(kube).watch()) as watch:
        assert len(await following(watch)) == 2
        await api.delete(IMAGE_CACHES, "a")
        await api.compact()
        assert [cache.name for cache in await following(watch)] == ["b"]


async def test_progress_of_a_build_changes_nothing(api: FakeKube, kube: KubeClient) -> None:
    await put_cache(api, "a")
    async with aclosing(KubeCaches(kube).watch()) as watch:
        await following(watch)
        for percent in range(20):
            await api.patch(IMAGE_CACHES, "a", {"status": {"progress": f"{percent}%"}}, subresource="status")
        await api.delete(IMAGE_CACHES, "a")
        assert await following(watch) == []


async def test_our_node_and_no_other(api: FakeKube, kube: KubeClient) -> None:
    await put_node(api, "other")
    async with aclosing(KubeNodes(kube, "worker", HOST).watch()) as watch:
        assert await following(watch) is None
        made = await put_node(api)
        assert await following(watch) == Node(objects.uid(made), {"pool": "gpu"}, HOST)
        await api.patch(NODES, "worker", {"status": {"images": []}})
        await api.patch(NODES, "worker", {"metadata": {"labels": {"pool": "cpu"}}})
        assert await following(watch) == Node(objects.uid(made), {"pool": "cpu"}, HOST)
        await api.delete(NODES, "worker")
        assert await following(watch) is None


async def test_a_node_is_of_the_platform_that_it_says(api: FakeKube, kube: KubeClient) -> None:
    await put_node(api)
    async with aclosing(KubeNodes(kube, "worker", HOST).watch()) as watch:
        node = await following(watch)
        assert node is not None
        assert node.platform == HOST
        info: Object = {"operatingSystem": "linux", "architecture": "arm64", "kubeletVersion": "v1.37.2"}
        await api.patch(NODES, "worker", {"status": {"nodeInfo": info}}, subresource="status")
        node = await following(watch)
        assert node is not None
        assert node.platform == Platform(os="linux", architecture="arm64")


async def test_the_taint_is_removed_and_the_others_stay(api: FakeKube, kube: KubeClient) -> None:
    other: JSON = {"key": "gpu", "effect": "NoSchedule"}
    await put_node(api, taints=[{"key": "imagecache.dev/not-ready", "effect": "NoSchedule"}, other])
    nodes = KubeNodes(kube, "worker", HOST)
    async with aclosing(nodes.watch()) as watch:
        node = await following(watch)
        assert node is not None
        assert node.tainted
        await nodes.untaint()
        node = await following(watch)
        assert node is not None
        assert not node.tainted
        assert objects.at(await api.get(NODES, "worker"), "spec", "taints") == [other]
        await nodes.untaint()  # nothing to do


async def test_a_taint_that_is_added_meanwhile_is_not_lost(api: FakeKube, kube: KubeClient) -> None:
    ours: JSON = {"key": "imagecache.dev/not-ready", "effect": "NoSchedule"}
    await put_node(api, taints=[ours])
    nodes = KubeNodes(kube, "worker", HOST)
    async with aclosing(nodes.watch()) as watch:
        await following(watch)
        cordon: JSON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
        stale = nodes._latest
        await api.patch(NODES, "worker", {"spec": {"taints": [ours, cordon]}})
        nodes._latest = stale
        with pytest.raises(ObjectConflict):
            await nodes.untaint()
        assert objects.at(await api.get(NODES, "worker"), "spec", "taints") == [ours, cordon]


READY = NodeCache(name="a", id=ID, state=CacheState.READY, bytes_total=10, bytes_done=10)


async def reported(api: FakeKube) -> NodeStatus:
    return parse_status((await api.get(NODE_IMAGE_CACHES, "worker"))["status"])


async def test_a_report_makes_the_object_and_belongs_to_the_node(api: FakeKube, kube: KubeClient) -> None:
    status = NodeStatus(mode="proxy", capacity_bytes=100, used_bytes=10, free_bytes=90, caches=(READY,))

    await KubeReporter(kube, "worker").report(status, Node("uid-1", {}))

    assert await reported(api) == status
    found = await api.get(NODE_IMAGE_CACHES, "worker")
    owner = {"apiVersion": "v1", "kind": "Node", "name": "worker", "uid": "uid-1"}
    assert objects.at(found, "metadata", "ownerReferences") == [owner]


async def test_a_field_without_a_value_is_removed_from_the_report(api: FakeKube, kube: KubeClient) -> None:
    reporter = KubeReporter(kube, "worker")
    await reporter.report(NodeStatus(mode="proxy", used_bytes=10, caches=(READY,)), Node("uid-1", {}))
    await reporter.report(NodeStatus(mode="proxy"), Node("uid-1", {}))
    assert await reported(api) == NodeStatus(mode="proxy")
    assert [call[0] for call in api.calls if call[1] == NODE_IMAGE_CACHES.qualified].count("create") == 1


async def test_an_object_that_was_deleted_is_created_again(api: FakeKube, kube: KubeClient) -> None:
    reporter = KubeReporter(kube, "worker")
    await reporter.report(NodeStatus(mode="proxy"), Node("uid-1", {}))
    await api.delete(NODE_IMAGE_CACHES, "worker")
    with pytest.raises(ObjectNotFound):
        await api.get(NODE_IMAGE_CACHES, "worker")
    await reporter.report(NodeStatus(mode="native"), Node("uid-1", {}))
    assert await reported(api) == NodeStatus(mode="native")


async def test_a_node_created_again_owns_the_object(api: FakeKube, kube: KubeClient) -> None:
    await KubeReporter(kube, "worker").report(NodeStatus(mode="proxy"), Node("uid-1", {}))
    reporter = KubeReporter(kube, "worker")
    await reporter.report(NodeStatus(mode="proxy"), Node("uid-2", {}))
    found = await api.get(NODE_IMAGE_CACHES, "worker")
    assert "uid-2" in str(objects.at(found, "metadata", "ownerReferences"))
