"""How often pods have matched a cache: written once a minute, lost by nobody but a controller that is killed."""

from __future__ import annotations

import asyncio
import datetime as dt

from imagecache.api.types import Phase, Status
from imagecache.api.usage import Matches
from imagecache.controller.match_log import INTERVAL, MatchLog
from imagecache.errors import KubernetesError, KubernetesUnavailable
from imagecache.kube.api import Object
from imagecache.kube.resources import IMAGE_CACHES, Resource
from testkit.clock import START, FakeClock

from .conftest import Bench, eventually, manifest


def writes(bench: Bench) -> int:
    """Patches of ImageCaches so far."""
    return sum((verb, kind) == ("patch", IMAGE_CACHES.qualified) for verb, kind, _name in bench.kube.calls)


async def quiet(bench: Bench, name: str = "a") -> None:
    """Until the controller has nothing left to do about it, also when it has seen what it wrote last."""
    queue = bench.controller.queue
    for _ in range(3):
        queue.add(name)
        await eventually(lambda: not queue._waiting and not queue._taken, lambda: queue._taken)
        await asyncio.sleep(0.005)


async def ready(bench: Bench) -> Status:
    bench.start()
    await bench.create(manifest())
    await bench.phase(Phase.READY)
    await quiet(bench)
    return await bench.status()


def used(status: Status) -> tuple[int, str]:
    return status.matches, status.last_matched_time


async def test_fifty_pods_are_one_write(bench: Bench) -> None:
    await ready(bench)
    before = writes(bench)
    for _ in range(50):
        bench.clock.advance(0.1)
        bench.controller.matched("a", bench.clock.now())
    await quiet(bench)
    assert writes(bench) == before

    bench.clock.advance(INTERVAL)
    await quiet(bench)
    assert writes(bench) == before + 1
    assert used(await bench.status()) == (50, "2024-05-01T12:00:05Z")


async def test_pods_without_pause_are_a_write_a_minute(bench: Bench) -> None:
    await ready(bench)
    before = writes(bench)
    for _ in range(20):
        bench.clock.advance(INTERVAL / 4)
        bench.controller.matched("a", bench.clock.now(), 3)
        await quiet(bench)

    assert 4 <= writes(bench) - before <= 5
    bench.clock.advance(INTERVAL)
    await quiet(bench)
    assert (await bench.status()).matches == 60


async def test_nothing_is_lost_beside_other_writes(bench: Bench) -> None:
    """While it is built anew, a status is written for its progress, and somebody edits it too."""
    await ready(bench)
    bench.builder.pause = asyncio.Event()
    await bench.kube.patch(IMAGE_CACHES, "a", {"spec": {"images": ["redis:7"]}})
    for number in range(10):
        bench.controller.matched("a", bench.clock.now())
        bench.clock.advance(INTERVAL)
        bench.controller.queue.add("a")
        days: Object = {"spec": {"retentionDays": number + 1}}
        await bench.kube.patch(IMAGE_CACHES, "a", days)
        await asyncio.sleep(0.005)
    bench.builder.pause.set()
    await bench.phase(Phase.READY)
    bench.clock.advance(INTERVAL)
    bench.controller.queue.add("a")

    status = await bench.until(lambda status: status.matches == 10)
    assert status.phase is Phase.READY


async def test_a_write_that_fails_is_made_again_with_all_that_came_meanwhile(bench: Bench) -> None:
    await ready(bench)

    def failure(verb: str, resource: Resource, name: str) -> KubernetesError | None:
        del name
        return KubernetesUnavailable("away") if (verb, resource) == ("patch", IMAGE_CACHES) else None

    before, bench.kube.failure = bench.kube.failure, failure
    bench.controller.matched("a", bench.clock.now(), 2)
    bench.clock.advance(INTERVAL)
    bench.controller.queue.add("a")
    await asyncio.sleep(0.02)
    bench.controller.matched("a", bench.clock.now(), 3)
    bench.kube.failure = before

    assert (await bench.until(lambda status: status.matches > 0)).matches == 5


async def test_a_controller_that_is_stopped_writes_what_it_knows(bench: Bench) -> None:
    before = await ready(bench)
    bench.controller.matched("a", bench.clock.now(), 7)
    bench.controller.matched("gone", bench.clock.now())
    await bench.kill()
    assert (await bench.status()).matches == 0

    await bench.controller.flush()
    after = await bench.status()
    assert used(after) == (7, "2024-05-01T12:00:00Z")
    assert (after.phase, after.image_cache_id) == (Phase.READY, before.image_cache_id)
    assert after.conditions == before.conditions
    bench.start()
    bench.controller.matched("a", bench.clock.now())
    bench.clock.advance(INTERVAL)
    bench.controller.queue.add("a")
    await bench.until(lambda status: status.matches == 8)


async def test_a_cache_that_is_built_again_after_a_failure_keeps_its_count(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest("a", "nginx:9"))
    await bench.phase(Phase.FAILED)
    bench.controller.matched("a", bench.clock.now())
    bench.clock.advance(INTERVAL)
    bench.controller.queue.add("a")
    await bench.until(lambda status: status.matches == 1)
    await bench.kube.patch(IMAGE_CACHES, "a", {"spec": {"images": ["nginx:1.25"]}})

    assert used(await bench.phase(Phase.READY)) == (1, "2024-05-01T12:00:00Z")


async def test_those_of_a_cache_that_is_gone_are_forgotten(bench: Bench) -> None:
    await ready(bench)
    bench.controller.matched("a", bench.clock.now(), 5)
    await bench.kube.delete(IMAGE_CACHES, "a")
    await bench.gone()
    await eventually(lambda: not bench.controller._matches.pending, lambda: "a")
    await bench.create(manifest())
    await bench.phase(Phase.READY)
    bench.clock.advance(INTERVAL)
    await quiet(bench)

    assert (await bench.status()).matches == 0


def test_what_comes_while_others_are_written_waits_anew() -> None:
    clock = FakeClock()
    log = MatchLog(clock)
    log.add("a", Matches(2, START))
    assert (log.due("a"), log.seconds_left("a")) == (None, INTERVAL)
    clock.advance(INTERVAL)
    due = log.due("a")
    assert due == Matches(2, START)

    later = START + dt.timedelta(seconds=61)
    log.add("a", Matches(1, later))
    log.written("a", due)
    assert log.pending == {"a": Matches(1, later)}
    assert (log.due("a"), log.seconds_left("a")) == (None, INTERVAL)
    log.written("a", Matches(1, later))
    assert (log.pending, log.seconds_left("a")) == ({}, None)
