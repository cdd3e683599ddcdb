"""Watches that lag, annotations of any size, limits that are reached."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator

import pytest

from imagecache.api.nodes import ELIMINATION
from imagecache.api.types import Phase
from imagecache.backoff import Backoff
from imagecache.controller.pods.autocaches import Made, victim
from imagecache.controller.pods.pod import DECODER
from imagecache.controller.quota import Limits, Stored, place_of, standing
from imagecache.errors import KubernetesError, KubernetesUnavailable, ObjectRefused
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.node_affinity import preferring, requiring
from imagecache.kube.resources import EVENTS, IMAGE_CACHES, NAMESPACES, PODS, Resource
from imagecache.match.events import AUTO_CREATED, HIT, MISSED
from imagecache.match.keys import AUTO, CREATE, GATE, PIN, REQUIRE_NODE
from testkit.clock import FakeClock
from testkit.kube import FakeKube

from .bench import Bench, eventually, running


class LateNamespaces(FakeKube):
    """Whose watch of Namespaces is behind that of pods."""

    async def lines(
        self, resource: Resource, *, resource_version: str, namespace: str = "", fields: str = ""
    ) -> AsyncIterator[bytes]:
        found = super().lines(resource, resource_version=resource_version, namespace=namespace, fields=fields)
        async for line in found:
            if resource == NAMESPACES:
                await asyncio.sleep(60)
            yield line


async def test_a_pod_that_its_namespace_pins_waits_for_the_namespace() -> None:
    clock = FakeClock()
    async with running(Bench(LateNamespaces(clock), clock)) as bench:
        controller = bench.start()
        await bench.cache(phase=Phase.CREATING)
        await bench.settled()
        await bench.namespace("team", {PIN: "app"})
        await bench.pod(namespace="team", gates=(GATE,))  # the API server's policy has read the Namespace
        await eventually(lambda: controller.metric("pods_held") == 1, "the pod to be seen")
        await bench.pass_time(60)

        assert await bench.gates(namespace="team") == [GATE]


async def test_who_is_not_let_go_is_not_told_a_hit(bench: Bench) -> None:
    def refusing(verb: str, resource: Resource, _name: str) -> KubernetesError | None:
        return ObjectRefused("a webhook says no") if (verb, resource) == ("patch", PODS) else None

    bench.start()
    await bench.cache()
    await bench.settled()
    bench.kube.failure = refusing
    await bench.pod(pin="app", annotations={REQUIRE_NODE: "true"})
    await eventually(lambda: bench.count("patch", PODS) > 1, "tries")
    assert await bench.told() == []

    bench.kube.failure = lambda _verb, _resource, _name: None
    await bench.until_told(HIT)


async def test_a_cache_that_is_gone_again_is_made_again_and_counts_no_more(bench: Bench) -> None:
    controller = bench.start(auto_caches=1)
    await bench.pod("a", node="node-1", annotations={CREATE: "true"})
    await bench.until_told(MISSED, AUTO_CREATED, name="a")
    await eventually(lambda: bool(controller.pods.caches.index.caches), "the cache to be seen")
    (item,) = (await bench.kube.list(IMAGE_CACHES)).items
    await bench.kube.delete(IMAGE_CACHES, objects.name(item))
    await eventually(lambda: not controller.pods.caches.index.caches, "the cache to go")

    await bench.pod("b", node="node-1", annotations={CREATE: "true"})

    await bench.until_told(MISSED, AUTO_CREATED, name="b")


async def test_what_is_refused_takes_no_turn_of_others(bench: Bench) -> None:
    bench.start()
    for number in range(6):
        await bench.pod(
            f"bad-{number}",
            node="node-1",
            annotations={CREATE: "true"},
            imagePullSecrets=[{"name": "none"}],
            containers=[{"name": "a", "image": f"team/app:{number}"}],
        )
    await bench.settled()

    await bench.pod("good", node="node-1", annotations={CREATE: "true"})

    await bench.until_told(MISSED, AUTO_CREATED, name="good")


class SlowLists(FakeKube):
    """Whose lists of pods can be made to wait."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.open = asyncio.Event()
        self.open.set()

    async def page(self, resource: Resource, *, namespace: str = "", fields: str = "", following: str = "") -> bytes:
        if resource == PODS:
            await self.open.wait()
        return await super().page(resource, namespace=namespace, fields=fields, following=following)


async def test_a_pod_that_runs_before_the_next_list_is_told_nevertheless() -> None:
    def away(verb: str, resource: Resource, _name: str) -> KubernetesError | None:
        return KubernetesUnavailable("away") if (verb, resource) in {("patch", PODS), ("create", EVENTS)} else None

    clock = FakeClock()
    kube = SlowLists(clock)
    async with running(Bench(kube, clock)) as bench:
        await bench.cache()
        bench.start(retries=Backoff(0.5, 0.5))
        await bench.settled()
        kube.failure = away
        await bench.pod(node="node-1", annotations={AUTO: "true"})
        await eventually(lambda: bench.count("patch", PODS) > 0, "the first try")
        kube.open.clear()
        await kube.compact()
        kube.failure = lambda _verb, _resource, _name: None
        await kube.patch(PODS, "web", {"status": {"phase": "Running"}}, namespace="default")
        kube.open.set()

        await bench.until_told(HIT)


class Edited(FakeKube):
    """In which somebody edits a pod in the moment of our first patch of it."""

    edit: Object | None = None

    async def strategic_patch(self, resource: Resource, name: str, patch: Object, *, namespace: str = "") -> None:
        edit, self.edit = self.edit, None
        if edit is not None:
            await self.patch(resource, name, edit, namespace=namespace)
        await super().strategic_patch(resource, name, patch, namespace=namespace)


@pytest.mark.parametrize("require", [False, True])
async def test_an_edit_of_the_affinity_in_that_moment_is_not_lost(*, require: bool) -> None:
    """The list of terms is sent whole, so a pod that has changed since it was read is read again."""
    clock = FakeClock()
    kube = Edited(clock)
    zone: Object = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    theirs: Object = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [zone]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": zone}],
    }
    async with running(Bench(kube, clock)) as bench:
        await bench.node("node-2")
        bench.start()
        await bench.cache(desired=2)
        await bench.pod(pin="app", annotations={REQUIRE_NODE: "true"} if require else {})
        await bench.settled()
        kube.edit = {"spec": {"affinity": {"nodeAffinity": theirs}}}
        await bench.pass_time(10)
        await bench.until_free("web")

        asked = (requiring if require else preferring)(theirs, ["node-1"])
        assert objects.at(await bench.get(), "spec", "affinity", "nodeAffinity") == {**theirs, **asked}
        assert await bench.told() == [HIT]


def test_annotations_that_nobody_reads_are_not_kept() -> None:
    metadata = {"uid": "x", "annotations": {PIN: "app", "note": "x" * 250_000}}
    pod = DECODER.decode(json.dumps({"metadata": metadata, "spec": {"schedulingGates": [{"name": GATE}]}})).kept()

    assert pod.metadata.annotations == {PIN: "app"}


NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def built_slowly(name: str) -> Object:
    """Created a quarter of an hour ago, ready for a second."""
    ready: Object = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T11:59:59Z"}
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "creationTimestamp": "2026-01-01T11:45:00Z",
            "annotations": {ELIMINATION: "LRU"},
        },
        "status": {"phase": "Ready", "attempt": {"wanted": "x"}, "conditions": [ready]},
    }


def test_what_is_ready_since_a_second_does_not_go() -> None:
    waiting: Object = {"metadata": {"name": "b", "uid": "b", "creationTimestamp": "2026-01-01T11:59:58Z"}}

    assert not standing([place_of(built_slowly("a")), place_of(waiting)], Limits(caches=1), Stored(), NOW).going
    assert victim([Made.of(built_slowly("a"))], NOW) is None
    assert victim([Made.of(built_slowly("a"))], NOW + dt.timedelta(minutes=10)) is not None
