"""The end of a Pod: an upgrade, or the end of us on this node."""

from __future__ import annotations

import asyncio
import json

import pytest

from imagecache.agent.daemonset import MODE_LABEL, OwnDaemonSet, withdraw
from imagecache.api.yamltext import JSON
from imagecache.concurrency import cancel_all
from imagecache.errors import KubernetesDenied, KubernetesError, KubernetesUnavailable, ObjectNotFound
from imagecache.kube.api import Object
from imagecache.kube.resources import DAEMON_SETS, NAMESPACES, NODE_IMAGE_CACHES, NODES, Resource
from imagecache.settings.choices import Mode
from imagecache.settings.table import Settings
from testkit.kube import FakeKube
from tests.unit.plain_host.bench import eventually

SETTINGS = Settings(mode=Mode.PROXY, node_name="worker", daemonset="imagecache-system/imagecache-agent")


async def daemonset(selector: dict[str, str] | None = None, **metadata: object) -> FakeKube:
    kube = FakeKube()
    await kube.create(NAMESPACES, {"metadata": {"name": "imagecache-system"}})
    pod = {"spec": {"nodeSelector": selector} if selector else {}}
    document = {"metadata": {"name": "imagecache-agent", **metadata}, "spec": {"template": pod}}
    item: Object = json.loads(json.dumps(document))
    await kube.create(DAEMON_SETS, item, namespace="imagecache-system")
    for name, pool in (("worker", "gpu"), ("other", "cpu")):
        labels: JSON = {"pool": pool, "kubernetes.io/os": "linux"}
        await kube.create(NODES, {"metadata": {"name": name, "labels": labels}})
    return kube


async def test_a_daemonset_that_exists_brings_its_pod_back() -> None:
    assert not await OwnDaemonSet(SETTINGS).has_left(await daemonset())
    assert not await OwnDaemonSet(SETTINGS).has_left(await daemonset(labels={MODE_LABEL: "proxy"}))


async def test_a_daemonset_of_another_mode_does_not() -> None:
    assert await OwnDaemonSet(SETTINGS).has_left(await daemonset(labels={MODE_LABEL: "native"}))


async def test_a_daemonset_that_was_deleted() -> None:
    assert await OwnDaemonSet(SETTINGS).has_left(FakeKube())


@pytest.mark.parametrize(
    ("selector", "left"),
    [
        ({"kubernetes.io/os": "linux"}, False),
        ({"kubernetes.io/os": "linux", "pool": "gpu"}, False),
        ({"kubernetes.io/os": "linux", "pool": "cpu"}, True),
        ({"zone": "a"}, True),
    ],
)
async def test_a_node_that_is_no_longer_selected(selector: dict[str, str], *, left: bool) -> None:
    assert await OwnDaemonSet(SETTINGS).has_left(await daemonset(selector)) is left


async def test_a_node_that_was_deleted_may_come_back() -> None:
    kube = await daemonset({"pool": "cpu"})
    await kube.delete(NODES, "worker")

    assert not await OwnDaemonSet(SETTINGS).has_left(kube)


async def test_of_a_namespace_that_is_being_deleted_the_pods_go_first() -> None:
    kube = await daemonset()
    now = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["kubernetes"]}}
    await kube.patch(NAMESPACES, "imagecache-system", json.loads(json.dumps(now)))

    assert await OwnDaemonSet(SETTINGS).has_left(kube)


@pytest.mark.parametrize("error", [KubernetesUnavailable("down"), KubernetesDenied("no such account")])
@pytest.mark.parametrize("asked", [DAEMON_SETS, NAMESPACES, NODES])
async def test_in_doubt_the_node_stays_as_it_is(asked: Resource, error: KubernetesError) -> None:
    kube = await daemonset({"pool": "gpu"})
    kube.failure = lambda _verb, resource, _name: error if resource == asked else None

    assert not await OwnDaemonSet(SETTINGS).has_left(kube)


@pytest.mark.parametrize("error", [KubernetesUnavailable("down"), KubernetesDenied("no such account")])
async def test_what_the_watch_has_seen_decides_when_our_account_went_first(error: KubernetesError) -> None:
    kube = await daemonset()
    own = OwnDaemonSet(SETTINGS)
    follows = asyncio.create_task(own.follow(kube))
    await asyncio.sleep(0.01)
    kube.failure = lambda verb, _resource, _name: error if verb == "get" else None
    assert not await own.has_left(kube)

    await kube.delete(DAEMON_SETS, "imagecache-agent", namespace="imagecache-system")
    await eventually(lambda: own.was_deleted)
    assert await own.has_left(kube)

    again: Object = {"metadata": {"name": "imagecache-agent"}}
    await kube.create(DAEMON_SETS, again, namespace="imagecache-system")
    await eventually(lambda: not own.was_deleted)
    assert not await own.has_left(kube)
    await cancel_all([follows])


async def test_the_report_of_this_node_is_deleted_and_no_other() -> None:
    kube = FakeKube()
    for name in ("worker", "other"):
        await kube.create(NODE_IMAGE_CACHES, {"metadata": {"name": name}})

    await withdraw(kube, "worker")

    with pytest.raises(ObjectNotFound):
        await kube.get(NODE_IMAGE_CACHES, "worker")
    await kube.get(NODE_IMAGE_CACHES, "other")
    await withdraw(kube, "worker")  # and once more: nothing to do


async def test_a_role_that_was_deleted_first_is_no_error() -> None:
    kube = FakeKube()
    kube.failure = lambda _verb, _resource, _name: KubernetesDenied("no such account")

    await withdraw(kube, "worker")


class Silent(FakeKube):
    """An API server that takes requests and answers none."""

    async def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        del resource, name, namespace
        await asyncio.Event().wait()
        return {}


async def test_a_pod_that_is_ended_does_not_wait_for_an_api_server_that_is_silent() -> None:
    found: list[bool] = []

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:  # as the agent asks: in a task that is being cancelled
            found.append(await OwnDaemonSet(SETTINGS).has_left(Silent(), seconds=0.01))

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert found == [False]
