"""Pods find their cache, over a Kubernetes API in memory: what is on the pod, what was told, and what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from imagecache.api.types import Phase
from imagecache.errors import KubernetesDenied, KubernetesError, KubernetesUnavailable, ObjectRefused
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.node_affinity import preferring, requiring
from imagecache.kube.resources import EVENTS, IMAGE_CACHES, PODS, Resource
from imagecache.match.events import AUTO_CREATED, HIT, MISSED, NOT_COMPLETE, NOT_FOUND
from imagecache.match.keys import AUTO, CREATE, GATE, MATCHED, PIN, REQUIRE_NODE
from testkit.clock import FakeClock
from testkit.kube import FakeKube

from .bench import Bench, eventually, running

Failure = Callable[[str, Resource, str], KubernetesError | None]

# held


async def test_a_pinned_pod_goes_when_its_cache_is_on_the_nodes(bench: Bench) -> None:
    controller = bench.start()
    await bench.cache(phase=Phase.CREATING)
    await bench.pod(pin="app", gates=("example.com/other", GATE))
    await bench.until_told(NOT_COMPLETE)
    assert controller.metric("pods_held") == 1
    cache_id = await bench.set_phase("app", Phase.READY)
    await bench.settled()
    assert GATE in await bench.gates(), "Ready is not enough: it would begin with an ordinary pull"
    await bench.report("node-1", "app", cache_id)
    await bench.until_free("web")

    assert await bench.gates() == ["example.com/other"]
    assert await bench.matched() == cache_id
    assert await bench.told() == [NOT_COMPLETE, HIT]
    assert bench.count("patch", PODS) == 1, "one request annotates and lets go"
    assert controller.matched == ["app"]
    assert controller.metric("pods_held") == 0
    assert controller.metric("pod_matches_total", outcome="hit") == 1
    assert controller.metric("pod_held_seconds_count") == 1


@pytest.mark.parametrize("require", [False, True])
async def test_when_some_nodes_have_it_the_pod_asks_for_those(bench: Bench, *, require: bool) -> None:
    await bench.node("node-2", {"kubernetes.io/hostname": "two.example"})
    bench.start()
    zone: Object = {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}}
    affinity: Object = {"preferredDuringSchedulingIgnoredDuringExecution": [zone]}
    await bench.cache(on=("node-2",), desired=2)
    keys = {REQUIRE_NODE: "true"} if require else {}
    await bench.pod(pin="app", annotations=keys, affinity={"nodeAffinity": affinity})
    await bench.settled()
    assert await bench.gates() == [GATE]
    await bench.pass_time(10)
    await bench.until_free("web")

    asked = requiring({}, ["two.example"]) if require else preferring(affinity, ["two.example"])
    assert objects.at(await bench.get(), "spec", "affinity", "nodeAffinity") == {**affinity, **asked}


async def test_a_preference_that_is_refused_holds_nobody(bench: Bench) -> None:
    bench.start()
    bench.kube.failure = refusing_once(ObjectRefused("spec.affinity may not change"), PODS)
    await bench.cache(desired=2)
    await bench.pod(pin="app")
    await bench.pass_time(10)
    await bench.until_free("web")

    assert objects.at(await bench.get(), "spec", "affinity") is None


async def test_an_unknown_cache_is_told_when_it_stays_unknown(bench: Bench) -> None:
    bench.start()
    await bench.pod(pin="app")
    await bench.settled()
    assert await bench.told() == []
    await bench.pass_time(2)
    await bench.until_told(NOT_FOUND)
    cache_id = await bench.cache()
    await bench.until_free("web")

    assert await bench.matched() == cache_id
    assert await bench.told() == [NOT_FOUND, HIT]


async def test_who_waits_is_told_again_after_an_hour(bench: Bench) -> None:
    bench.start()
    await bench.cache(phase=Phase.CREATING)
    await bench.pod(pin="app")
    await bench.until_told(NOT_COMPLETE)
    await bench.pass_time(1800)
    assert await bench.told() == [NOT_COMPLETE]
    await bench.pass_time(1800)
    await bench.until_told(NOT_COMPLETE, NOT_COMPLETE)
    await bench.controllers[0].kill()
    bench.start()
    await bench.settled()
    assert await bench.told() == [NOT_COMPLETE, NOT_COMPLETE], "the next leader repeats nothing"


async def test_a_pin_that_is_edited_is_read_again(bench: Bench) -> None:
    bench.start()
    await bench.cache("old", phase=Phase.CREATING)
    cache_id = await bench.cache("new")
    await bench.pod(pin="old")
    await bench.until_told(NOT_COMPLETE)
    await bench.annotate("web", PIN, "new")
    await bench.until_free("web")

    assert await bench.matched() == cache_id


async def test_a_pin_that_is_removed_frees_and_the_match_follows(bench: Bench) -> None:
    bench.start()
    cache_id = await bench.cache(phase=Phase.CREATING)
    await bench.pod(pin="app", annotations={AUTO: "true"})
    await bench.until_told(NOT_COMPLETE)
    await bench.annotate("web", PIN, None)
    await bench.until_free("web")
    assert await bench.matched() == ""
    await bench.set_phase("app", Phase.READY)
    await bench.report("node-1", "app", cache_id)
    await bench.settled()
    await bench.bind()
    await bench.until_matched("web", cache_id)

    assert await bench.told() == [NOT_COMPLETE, HIT]


async def test_a_cache_that_is_deleted_meanwhile_is_told(bench: Bench) -> None:
    bench.start()
    await bench.cache(phase=Phase.CREATING)
    await bench.pod(pin="app")
    await bench.until_told(NOT_COMPLETE)
    await bench.kube.delete(IMAGE_CACHES, "app")
    await bench.pass_time(2)
    await bench.until_told(NOT_COMPLETE, NOT_FOUND)
    assert await bench.gates() == [GATE]
    cache_id = await bench.cache()
    await bench.until_matched("web", cache_id)


async def test_a_pod_that_is_deleted_while_it_is_held_is_forgotten(bench: Bench) -> None:
    controller = bench.start()
    await bench.pod(pin="app")
    await eventually(lambda: controller.metric("pods_held") == 1, "it to be held")
    await bench.kube.delete(PODS, "web", namespace="default")
    await eventually(lambda: controller.metric("pods_held") == 0, "it to be forgotten")
    await bench.cache()
    await bench.settled()

    assert controller.pods._memories == {}
    assert bench.count("patch", PODS) == 0


async def test_a_pod_that_kueue_holds_too_is_told_once_and_goes_when_kueue_says_so(bench: Bench) -> None:
    controller = bench.start()
    kueue = "kueue.x-k8s.io/admission"
    cache_id = await bench.cache()
    await bench.pod(pin="app", gates=(kueue, GATE), schedulingGroup={"podGroupName": "train"})
    await bench.until_told(HIT)
    assert await bench.gates() == [kueue]
    assert await bench.matched() == cache_id
    await bench.kube.patch(PODS, "web", {"spec": {"schedulingGates": None}}, namespace="default")
    await bench.bind()
    await bench.settled()
    await bench.run()
    await eventually(lambda: controller.pods._memories == {}, "it to be forgotten")

    assert objects.at(await bench.get(), "spec", "schedulingGroup") == {"podGroupName": "train"}
    assert await bench.told() == [HIT]
    assert bench.count("patch", PODS) == 1 + 3, "three are the test's own"


async def test_a_gate_that_somebody_else_takes_away_is_no_longer_ours(bench: Bench) -> None:
    controller = bench.start()
    cache_id = await bench.cache(phase=Phase.CREATING)
    await bench.pod(pin="app")
    await bench.until_told(NOT_COMPLETE)
    await bench.kube.patch(PODS, "web", {"spec": {"schedulingGates": None}}, namespace="default")
    await eventually(lambda: controller.pods._memories == {}, "it to be forgotten")
    await bench.set_phase("app", Phase.READY)
    await bench.report("node-1", "app", cache_id)
    await bench.settled()
    assert await bench.matched() == ""
    await bench.bind()

    await bench.until_matched("web", cache_id)


async def test_a_pod_of_the_same_name_is_another_one(bench: Bench) -> None:
    """It is made anew between the decision and the patch, which must not reach it."""
    controller = bench.start()
    await bench.cache(phase=Phase.CREATING)
    await bench.pod(pin="app")
    await bench.until_told(NOT_COMPLETE)
    key = (PODS.qualified, "default", "web")

    def replaced(verb: str, resource: Resource, name: str) -> None:
        if (verb, resource, name) == ("patch", PODS, "web"):
            objects.metadata(bench.kube._objects[key])["uid"] = "another"

    bench.kube.failure = replaced
    cache_id = await bench.set_phase("app", Phase.READY)
    await bench.report("node-1", "app", cache_id)
    await eventually(lambda: controller.pods._memories == {}, "the old one to be forgotten")

    assert await bench.gates() == [GATE]
    assert await bench.matched() == ""
    assert bench.count("patch", PODS) == 1


async def test_pods_that_vanish_while_nobody_watches_are_forgotten(bench: Bench) -> None:
    controller = bench.start()
    for name in ("a", "b"):
        await bench.pod(name, pin="app")
    await eventually(lambda: controller.metric("pods_held") == 2, "both to be held")
    away = True
    bench.kube.failure = lambda *_: KubernetesUnavailable("restarting") if away else None
    await bench.kube.compact()
    await asyncio.sleep(0.05)
    bench.kube._objects.pop((PODS.qualified, "default", "a"))
    away = False
    await eventually(lambda: controller.metric("pods_held") == 1, "one to be forgotten")
    cache_id = await bench.cache()

    await bench.until_matched("b", cache_id)


# not ours


async def test_pods_of_the_system_and_copies_of_static_pods_are_never_touched(bench: Bench) -> None:
    bench.start()
    await bench.cache()
    mirror = {"kubernetes.io/config.mirror": "x", AUTO: "true"}
    await bench.pod("a", pin="app", namespace="kube-system")
    await bench.pod("b", pin="app", namespace="imagecache-system")
    await bench.pod("c", node="node-1", annotations=mirror)
    await bench.pod("d", node="node-1", annotations={AUTO: "true"}, namespace="kube-system")
    await bench.settled()

    assert bench.count("patch", PODS) == bench.count("create", EVENTS) == 0


async def test_a_pod_about_which_nobody_has_written_costs_nothing(bench: Bench) -> None:
    controller = bench.start()
    await bench.cache()
    await bench.pod("hit", node="node-1")
    await bench.pod("missed", node="node-1", containers=[{"name": "a", "image": "redis:7"}])
    await eventually(lambda: controller.matched == ["app"], "the use to be counted")

    assert bench.count("patch", PODS) == bench.count("create", EVENTS) == 0
    assert controller.metric("pod_matches_total", outcome="missed") == 1


# bound


async def test_a_bound_pod_is_annotated_and_told_once(bench: Bench) -> None:
    controller = bench.start()
    cache_id = await bench.cache()
    await bench.pod(annotations={AUTO: "true", MATCHED: "imc-copied"})
    await bench.settled()
    assert await bench.matched() == "imc-copied", "nothing is said before its node is known"
    await bench.bind()
    await bench.until_told(HIT)
    for number in range(3):  # what kubelet reports while it starts
        await bench.annotate("web", "example.com/step", str(number))
    await bench.settled()
    await bench.run()
    await eventually(lambda: controller.pods._memories == {}, "it to be forgotten")

    assert await bench.matched() == cache_id
    assert (bench.count("patch", PODS), bench.count("create", EVENTS)) == (1 + 5, 1), "five are the test's own"
    assert controller.matched == ["app"]


async def test_a_cache_on_other_nodes_is_no_hit(bench: Bench) -> None:
    await bench.node("node-2")
    bench.start()
    await bench.cache(on=("node-2",))
    await bench.pod(node="node-1", annotations={AUTO: "true", MATCHED: "imc-copied"})
    await bench.until_told(MISSED)

    assert await bench.matched() == ""


async def test_a_pod_that_starts_at_once_is_annotated_nevertheless(bench: Bench) -> None:
    controller = bench.start()
    cache_id = await bench.cache()
    await bench.settled()
    await bench.pod(node="node-1", annotations={AUTO: "true"})
    await bench.run()
    await bench.until_matched("web", cache_id)
    await eventually(lambda: controller.pods._memories == {}, "it to be forgotten")


async def test_an_unknown_pin_of_a_pod_that_is_not_held_is_told_when_it_starts(bench: Bench) -> None:
    controller = bench.start()
    await bench.pod(pin="nope", node="node-1")
    await bench.settled()
    assert await bench.told() == []
    await bench.run()
    await bench.until_told(NOT_FOUND)
    assert controller.metric("pod_matches_total", outcome="not found") == 1


async def test_a_namespace_pins_for_its_pods(bench: Bench) -> None:
    bench.start()
    await bench.namespace("default", {PIN: "app", "example.com/a": "1"})
    await bench.settled()
    await bench.pod(gates=[GATE])
    await bench.pass_time(2)
    await bench.until_told(NOT_FOUND)
    cache_id = await bench.cache()

    await bench.until_matched("web", cache_id)


# caches that pods had made


async def test_fifty_pods_make_one_cache_and_the_next_ones_hit(bench: Bench) -> None:
    one, other = bench.start(), bench.start()
    names = [f"web-{number}" for number in range(50)]
    for name in names:
        await bench.pod(name, node="node-1", annotations={CREATE: "true"})
    await bench.settled()
    caches = (await bench.kube.list(IMAGE_CACHES)).items
    told = [reason for name in names for reason in await bench.told(name)]
    assert len(caches) == 1
    assert told.count(AUTO_CREATED) == 1
    assert told.count(MISSED) == 50
    assert sum(each.metric("auto_caches_total", outcome="created") for each in (one, other)) == 1
    made = objects.name(caches[0])
    cache_id = await bench.set_phase(made, Phase.READY)
    await bench.report("node-1", made, cache_id)
    await bench.settled()
    await bench.pod("next", node="node-1", annotations={CREATE: "true"})

    await bench.until_matched("next", cache_id)


# what fails


def refusing_once(error: KubernetesError, resource: Resource) -> Failure:
    """The first patch of the resource."""
    left = [error]

    def failure(verb: str, of: Resource, _name: str) -> KubernetesError | None:
        return left.pop() if left and (verb, of) == ("patch", resource) else None

    return failure


async def test_a_held_pod_is_tried_without_end_and_others_five_times(bench: Bench) -> None:
    controller = bench.start()
    denied = True

    def failure(verb: str, resource: Resource, _name: str) -> KubernetesError | None:
        return KubernetesDenied("pods is forbidden") if denied and (verb, resource) == ("patch", PODS) else None

    bench.kube.failure = failure
    cache_id = await bench.cache()
    await bench.settled()
    await bench.pod("free", node="node-1", annotations={AUTO: "true"})
    await bench.until_told(HIT, name="free")
    await eventually(lambda: bench.count("patch", PODS) == 5, "five tries")
    await bench.settled()
    assert bench.count("patch", PODS) == 5
    await bench.pod("held", pin="app")
    await eventually(lambda: bench.count("patch", PODS) > 15, "many tries")
    denied = False
    await bench.until_matched("held", cache_id)

    assert await bench.told("held") == [HIT]
    assert controller.metric("pods_held") == 0


async def test_events_that_may_not_be_written_hold_nobody(bench: Bench) -> None:
    bench.start()
    bench.kube.failure = lambda _verb, resource, _name: KubernetesDenied("no events") if resource == EVENTS else None
    cache_id = await bench.cache()
    await bench.pod(pin="app")

    await bench.until_matched("web", cache_id)


# restarts


class Slow(FakeKube):
    """Who is killed may have done it without knowing."""

    async def create(self, resource: Resource, item: Object, *, namespace: str = "") -> Object:
        await asyncio.sleep(0)
        made = await super().create(resource, item, namespace=namespace)
        await asyncio.sleep(0)
        return made

    async def strategic_patch(self, resource: Resource, name: str, patch: Object, *, namespace: str = "") -> None:
        await asyncio.sleep(0)
        await super().strategic_patch(resource, name, patch, namespace=namespace)
        await asyncio.sleep(0)


@pytest_asyncio.fixture
async def slow() -> AsyncIterator[Bench]:
    clock = FakeClock()
    async with running(Bench(Slow(clock), clock)) as bench:
        yield bench


@pytest.mark.parametrize("patches", [1, 17, 40])
async def test_a_controller_killed_among_a_hundred_held_pods(slow: Bench, patches: int) -> None:
    """Each is annotated once, each event is there once, whoever does it."""
    bench = slow
    names = [f"web-{number}" for number in range(100)]
    first = bench.start()
    await bench.cache(phase=Phase.CREATING)
    for name in names:
        await bench.pod(name, pin="app")
    await eventually(lambda: bench.count("create", EVENTS) == 100, "all to be told")
    killed = asyncio.Event()

    def kill(verb: str, resource: Resource, _name: str) -> None:
        if (verb, resource) == ("patch", PODS) and bench.count("patch", PODS) == patches:
            for task in first.tasks:
                task.cancel()
            killed.set()

    bench.kube.failure = kill
    bench.clock.advance(60)  # events may be written again
    cache_id = await bench.set_phase("app", Phase.READY)
    await bench.report("node-1", "app", cache_id)
    async with asyncio.timeout(10):
        await killed.wait()
    await first.kill()
    held = [name for name in names if GATE in await bench.gates(name)]
    assert 0 < len(held) < 100
    bench.start()
    await bench.until_free(*names)
    for name in names:
        await bench.bind(name)
    await bench.settled()

    assert {await bench.matched(name) for name in names} == {cache_id}
    assert [await bench.told(name) for name in names] == [[NOT_COMPLETE, HIT]] * 100
    for name in names:
        changes = [past for past in bench.kube._history if past.resource == PODS.qualified and past.after]
        assert sum(objects.name(past.after or {}) == name for past in changes) == 3, "created, annotated, bound"


async def test_two_controllers_repeat_nothing(bench: Bench) -> None:
    """As when a leader does not know yet that it leads no longer."""
    bench.start()
    bench.start()
    names = [f"web-{number}" for number in range(20)]
    cache_id = await bench.cache(phase=Phase.CREATING)
    for name in names:
        await bench.pod(name, pin="app")
    await bench.settled()
    await bench.set_phase("app", Phase.READY)
    await bench.report("node-1", "app", cache_id)
    await bench.until_free(*names)
    await bench.settled()

    assert [await bench.told(name) for name in names] == [[NOT_COMPLETE, HIT]] * 20
    changed = [past for past in bench.kube._history if past.resource == PODS.qualified]
    assert len(changed) == 40
