"""Letting every held pod go, over a Kubernetes API in memory."""

from __future__ import annotations

import asyncio

import pytest

from imagecache.controller.pods.release import release
from imagecache.errors import KubernetesDenied, ObjectRefused
from imagecache.kube.api import Object
from imagecache.kube.resources import EVENTS, PODS, Resource
from imagecache.match.events import RELEASED
from imagecache.match.keys import AUTO, GATE
from testkit.clock import FakeClock
from testkit.kube import FakeKube

from .bench import Bench


async def test_release_lets_every_held_pod_go(bench: Bench) -> None:
    await bench.pod("a", pin="app")
    await bench.pod("b", pin="app", gates=(GATE, "example.com/other"), namespace="kube-system")
    await bench.pod("c", annotations={AUTO: "true"})
    await bench.pod("d", gates=("example.com/other",))

    assert await release(bench.kube, bench.clock, pause=0) == 2
    assert await bench.gates("a") == []
    assert await bench.gates("b", "kube-system") == await bench.gates("d") == ["example.com/other"]
    assert bench.count("patch", PODS) == 2
    assert await release(bench.kube, bench.clock, pause=0) == 0
    assert [await bench.told(name) for name in "abcd"] == [[RELEASED], [RELEASED], [], []]
    assert "uninstalled" in (await bench.messages("a"))[0]
    assert "pulls the images that it does not have" in (await bench.messages("a"))[0]


async def test_a_pod_goes_also_when_that_may_not_be_told(bench: Bench) -> None:
    await bench.pod("a", pin="app")
    bench.kube.failure = lambda _verb, resource, _name: KubernetesDenied("no events") if resource == EVENTS else None

    assert await release(bench.kube, bench.clock, pause=0) == 1
    assert await bench.gates("a") == []


async def test_who_is_held_again_is_told_once(bench: Bench) -> None:
    """The policy is in force for a moment longer, or another release has told it."""
    await bench.pod("a", pin="app")
    for _ in range(2):
        await bench.kube.patch(PODS, "a", {"spec": {"schedulingGates": [{"name": GATE}]}}, namespace="default")
        assert await release(bench.kube, bench.clock, pause=0) == 1

    assert await bench.told("a") == [RELEASED]


class Holding(FakeKube):
    """A cluster in which something adds each gate again."""

    async def strategic_patch(self, resource: Resource, name: str, patch: Object, *, namespace: str = "") -> None:
        """As if it had never been."""


async def test_release_says_when_pods_are_held_again_and_again() -> None:
    clock = FakeClock()
    bench = Bench(Holding(clock), clock)
    await bench.pod(pin="app")

    with pytest.raises(ObjectRefused, match="held again"):
        await release(bench.kube, bench.clock, pause=0)


class Silent(FakeKube):
    """Whose events are elsewhere, and that is away."""

    async def create(self, resource: Resource, item: Object, *, namespace: str = "") -> Object:
        if resource == EVENTS:
            await asyncio.Event().wait()
        return await super().create(resource, item, namespace=namespace)


async def test_pods_go_however_long_an_event_takes() -> None:
    clock = FakeClock()
    bench = Bench(Silent(clock), clock)
    for number in range(40):
        await bench.pod(f"p{number:02}", pin="app")

    assert await release(bench.kube, bench.clock, pause=0, telling=0.05) == 40


class Refusing(FakeKube):
    """Whose webhook refuses one pod, while patches of others are under way."""

    async def strategic_patch(self, resource: Resource, name: str, patch: Object, *, namespace: str = "") -> None:
        await asyncio.sleep(0.001)
        if name == "p00":
            raise ObjectRefused("a webhook says no")
        await asyncio.sleep(0.002)
        await super().strategic_patch(resource, name, patch, namespace=namespace)


async def test_one_pod_that_may_not_be_patched_keeps_no_other() -> None:
    clock = FakeClock()
    bench = Bench(Refusing(clock), clock)
    for number in range(40):
        await bench.pod(f"p{number:02}", pin="app")

    with pytest.raises(ObjectRefused, match="a webhook says no"):
        await release(bench.kube, bench.clock, pause=0)

    assert [number for number in range(40) if await bench.gates(f"p{number:02}")] == [0]
