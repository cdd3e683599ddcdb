"""The controller from end to end when there is not room for everything: who begins, who waits, who goes."""

from __future__ import annotations

import asyncio
import datetime as dt

from imagecache.api import times
from imagecache.api.types import Phase
from imagecache.api.yamltext import JSON
from imagecache.controller.quota import Limits
from imagecache.kube.api import Object
from imagecache.kube.resources import IMAGE_CACHES
from testkit.builder import LAYER_SIZE

from .conftest import Bench, eventually, manifest
from .test_reconciler import conditions, reasons

LRU: dict[str, JSON] = {"imagecache.dev/elimination-strategy": "LRU"}
IMAGE_SIZE = 2 * 2 * LAYER_SIZE
"""Bytes of the layer images of an image of two layers."""


async def built(bench: Bench, *names: str, annotations: dict[str, JSON] | None = None) -> None:
    for name in names:
        await bench.create(manifest(name, annotations=annotations))
    for name in names:
        await bench.phase(Phase.READY, name)


async def used(bench: Bench, name: str, ago: dt.timedelta) -> None:
    patch: Object = {"status": {"lastMatchedTime": times.render(bench.clock.now() - ago)}}
    await bench.kube.patch(IMAGE_CACHES, name, patch, subresource="status")


async def names(bench: Bench) -> list[str]:
    found = [item["metadata"] for item in (await bench.kube.list(IMAGE_CACHES)).items]
    return sorted(str(each["name"]) for each in found if isinstance(each, dict))


async def test_what_has_no_room_waits_and_begins_when_another_one_is_deleted(bench: Bench) -> None:
    bench.limits = Limits(caches=2)
    bench.start()
    await built(bench, "a", "b")
    await bench.create(manifest("c"))
    waiting = await bench.until(lambda status: bool(status.reason), "c")

    assert waiting.phase is Phase.PENDING
    assert waiting.reason.startswith("QuotaExceeded: there may be 2 image caches (max_caches)")
    assert conditions(waiting)["Stalled"] == ("False", "QuotaExceeded")
    assert len(bench.builder.requests) == 2
    await bench.kube.delete(IMAGE_CACHES, "a")
    status = await bench.phase(Phase.READY, "c")
    assert status.reason == ""
    assert reasons(status.events)[0] == "QuotaExceeded"


async def test_the_least_recently_used_goes_first(bench: Bench) -> None:
    bench.limits = Limits(caches=3)
    bench.start()
    await built(bench, "one", "two", annotations=LRU)
    await built(bench, "kept")
    bench.clock.advance(hours=1)
    await used(bench, "one", dt.timedelta(minutes=20))
    await used(bench, "two", dt.timedelta(minutes=30))
    await bench.create(manifest("new"))
    await bench.phase(Phase.READY, "new")
    await bench.gone("two")

    assert await names(bench) == ["kept", "new", "one"]
    assert ("Evicted", "two") in await bench.events()


async def test_a_match_that_is_not_written_yet_counts(bench: Bench) -> None:
    bench.limits = Limits(caches=2)
    bench.start()
    await built(bench, "one", "two", annotations=LRU)
    bench.clock.advance(hours=1)
    bench.controller.matched("one", bench.clock.now())
    await bench.create(manifest("new"))
    await bench.phase(Phase.READY, "new")
    await bench.gone("two")

    assert await names(bench) == ["new", "one"]
    await bench.create(manifest("newer"))
    await bench.until(lambda status: status.reason.startswith("QuotaExceeded"), "newer")
    assert await names(bench) == ["new", "newer", "one"]


async def test_of_many_at_once_as_many_begin_as_there_is_room_for(bench: Bench) -> None:
    bench.limits = Limits(caches=5)
    bench.builder.pause = asyncio.Event()
    bench.start()
    many = [f"c{number:02}" for number in range(20)]
    for name in many:
        await bench.create(manifest(name))
    for name in many[5:]:
        await bench.until(lambda status: status.reason.startswith("QuotaExceeded"), name)

    assert bench.controller.builds.running == 5
    await bench.kill()
    bench.builder.pause = None
    bench.start()  # another controller knows who has begun from the objects alone
    for name in many[:5]:
        await bench.phase(Phase.READY, name)
    assert {request.bundle_id[:16] for request in bench.builder.requests} == {
        (await bench.status(name)).image_cache_id[:16] for name in many[:5]
    }
    assert {(await bench.status(name)).phase for name in many[5:]} == {Phase.PENDING}


async def test_one_takes_the_place_of_each_that_goes(bench: Bench) -> None:
    bench.limits = Limits(caches=4)
    bench.start()
    old = [f"old{number}" for number in range(4)]
    await built(bench, *old, annotations=LRU)
    bench.clock.advance(hours=1)
    for name in ("new1", "new2"):
        await bench.create(manifest(name))
    for name in ("new1", "new2"):
        await bench.phase(Phase.READY, name)
    for name in old[:2]:
        await bench.gone(name)

    assert await names(bench) == ["new1", "new2", "old2", "old3"]


async def test_a_full_store_makes_room_for_the_next(bench: Bench) -> None:
    bench.limits = Limits(store=IMAGE_SIZE)
    bench.start()
    await built(bench, "one")
    await bench.create(manifest("two", "redis:7"))
    await bench.until(lambda status: status.reason.startswith("QuotaExceeded: the store may have 0 GiB"), "two")
    bench.clock.advance(hours=1)
    await bench.kube.patch(IMAGE_CACHES, "one", {"metadata": {"annotations": dict(LRU)}})
    await bench.gone("one")

    await bench.phase(Phase.READY, "two")
    assert [document.id for document in bench.store.documents.values()] == [(await bench.status("two")).image_cache_id]


async def test_of_many_at_once_those_that_follow_see_what_those_before_have_made(bench: Bench) -> None:
    bench.limits = Limits(store=1)
    bench.builder.pause = asyncio.Event()
    bench.start()
    many = [f"c{number}" for number in range(6)]
    for name in many:
        await bench.create(manifest(name))
    await eventually(lambda: bench.controller.builds.running == len(many), lambda: bench.controller.builds.running)
    await eventually(lambda: bench.builder.running == 2, lambda: bench.builder)
    bench.builder.pause.set()
    phases = {}

    async def ended() -> bool:
        for name in many:
            phases[name] = (await bench.status(name)).phase
        waiting = [name for name in many if (await bench.status(name)).reason.startswith("QuotaExceeded")]
        return len(waiting) == 4 and list(phases.values()).count(Phase.READY) == 2

    await eventually(ended, lambda: phases)
    assert bench.builder.most == 2
