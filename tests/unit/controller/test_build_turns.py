"""Builds that take long, while others wait: they give up their place, and go on later with what they have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from imagecache.api.building import BuildRequest
from imagecache.api.pull_secrets import PullSecret
from imagecache.apps.bundle_store import LocalBundles
from imagecache.builder.build_events import BuildEvent
from imagecache.clock import SystemClock
from imagecache.controller.build_queue import BuildQueue
from imagecache.controller.decision import Broken, Ended, Running
from imagecache.controller.pull_secrets import Credentials
from imagecache.digest import DiffID, Digest
from imagecache.errors import ImageNotFound
from imagecache.limits import GIB
from imagecache.oci.descriptor import Platform
from imagecache.settings.table import Settings
from imagecache.store.bundle_document import build_name
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.builder import MemoryStore

from .conftest import eventually

TURN = 0.02


class Dripping:
    """Builds that take as many turns as their name says, or none: those end at once."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.go = asyncio.Event()
        self.running = self.most = 0

    async def build(
        self, request: BuildRequest, credentials: Sequence[PullSecret], emit: Callable[[BuildEvent], None]
    ) -> None:
        del credentials, emit
        name = request.images[0]
        self.begun.append(name)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if name.startswith("slow"):
                await self.go.wait()
            if name.startswith("bad"):
                raise ImageNotFound("no such image")
            self.ended.append(name)
        finally:
            self.running -= 1


def request(image: str) -> BuildRequest:
    return BuildRequest(
        bundle_id=f"imc-{image}",
        images=(image,),
        platforms=(Platform(os="linux", architecture="amd64"),),
        complete=True,
        size_limit=GIB,
    )


class Bench:
    def __init__(self) -> None:
        self.builder = Dripping()
        self.store = MemoryStore()
        self.queue = BuildQueue(self.builder, 2, SystemClock(), lambda _key: None, hold=self.store.hold, turn=TURN)

    def start(self, *images: str) -> None:
        for image in images:
            self.queue.start(image, request(image), Credentials((), ""))

    async def until(self, condition: Callable[[], object]) -> None:
        await eventually(condition, lambda: (self.builder.begun, self.builder.ended))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.queue.close()
    assert bench.store.holds == []


async def test_slow_builds_do_not_hold_others(bench: Bench) -> None:
    """Two registries that drip a byte now and then held both places without end."""
    bench.start("slow-1", "slow-2", "one", "two")
    await bench.until(lambda: sorted(bench.builder.ended) == ["one", "two"])
    assert bench.builder.most == 2
    assert isinstance(bench.queue.state("slow-1"), Running)

    bench.builder.go.set()
    await bench.until(lambda: sorted(bench.builder.ended) == ["one", "slow-1", "slow-2", "two"])
    assert isinstance(bench.queue.state("slow-1"), Ended)


async def test_a_slow_build_goes_on_while_nobody_waits(bench: Bench) -> None:
    bench.start("slow-1", "slow-2")
    await bench.until(lambda: bench.builder.begun == ["slow-1", "slow-2"])
    await asyncio.sleep(5 * TURN)
    assert bench.builder.begun == ["slow-1", "slow-2"]


async def test_of_several_slow_builds_one_goes_for_one_that_waits(bench: Bench) -> None:
    bench.start("slow-1", "slow-2")
    await bench.until(lambda: len(bench.builder.begun) == 2)
    await asyncio.sleep(2 * TURN)
    bench.start("one")
    await bench.until(lambda: bench.builder.ended == ["one"])
    await bench.until(lambda: bench.builder.running == 2)
    assert len(bench.builder.begun) <= 5


async def test_what_it_has_made_is_held_while_it_waits(bench: Bench) -> None:
    bench.start("slow-1", "slow-2", "slow-3")
    await bench.until(lambda: "slow-3" in bench.builder.begun)
    assert len(bench.store.holds) >= 1
    bench.builder.go.set()
    await bench.until(lambda: len(bench.builder.ended) == 3)
    assert bench.store.holds == []


async def test_a_build_that_waits_again_can_be_stopped(bench: Bench) -> None:
    bench.start("slow-1", "slow-2", "slow-3", "slow-4")
    await bench.until(lambda: "slow-4" in bench.builder.begun)
    for image in ("slow-1", "slow-2", "slow-3", "slow-4"):
        await bench.queue.stop(image)
    assert bench.builder.running == 0
    assert bench.store.holds == []


async def test_a_failure_is_one_in_any_turn(bench: Bench) -> None:
    bench.start("slow-1", "slow-2", "bad")
    await bench.until(lambda: isinstance(bench.queue.state("bad"), Broken))


async def test_it_is_admitted_once(bench: Bench) -> None:
    asked = []

    async def admit() -> None:
        asked.append(1)

    bench.queue.start("slow-1", request("slow-1"), Credentials((), ""), admit)
    bench.start("slow-2", "slow-3")
    await bench.until(lambda: bench.builder.begun.count("slow-1") == 2)
    assert asked == [1]


def test_what_a_running_build_has_made_outlives_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    bundles = LocalBundles(store)
    name = LayerName(Space.LAYERS, DiffID(Digest.sha256(b"layer")))
    with store.leases.build_lease([name], build=build_name("imc-a", "amd64")):
        with store.layers.stage() as staged:
            staged.commit(name)
        held = bundles.hold("imc-a")
    with held:
        store.collect()
        assert store.layers.has(name)
    store.collect()
    assert not store.layers.has(name)


def test_two_builds_at_the_same_time_are_the_default() -> None:
    """One that hangs would be the only one otherwise, for its turn."""
    assert Settings().controller_builds == 2
