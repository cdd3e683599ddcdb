"""What the quota knows of objects that an informer shows late, and what only time changes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from msgspec.structs import replace

from imagecache.api import times
from imagecache.api.ids import derived_cache_id
from imagecache.api.types import Attempt
from imagecache.controller.places import Places
from imagecache.controller.quota import Limits
from imagecache.digest import Digest
from imagecache.errors import StoreError
from imagecache.kube.api import Object
from imagecache.store.layer_name import LayerName, Space
from testkit.clock import START, FakeClock
from tests.unit.controller.situations import NOT_FOUND, ONE, failed, pending, ready

from .conftest import eventually

Layers = Mapping[str, Mapping[LayerName, int]]
LAYER, OTHER = (LayerName(Space.LAYERS, Digest.sha256(name)) for name in (b"one", b"other"))


def item(name: str, phase: str = "", *, marked: bool = False, uid: str = "") -> Object:
    metadata: Object = {"name": name, "uid": uid or f"uid-{name}", "creationTimestamp": times.render(START)}
    metadata["annotations"] = {"imagecache.dev/elimination-strategy": "LRU"} if marked else {}
    status: Object = {"phase": phase, "attempt": {"wanted": "x"}} if phase else {}
    return {"metadata": metadata, "status": status}


def places(limits: Limits, clock: FakeClock, *items: Object, layers: Callable[[], Layers] = dict) -> Places:
    made = Places(limits, layers, clock, lambda _name: None)
    for each in items:
        made.take(each, gone=False)
    return made


def two_that_may_go(clock: FakeClock, layers: Callable[[], Layers]) -> Places:
    """``a`` and ``b``, beside ``new``, which waits for room."""
    marked = [item(name, "Ready", marked=True) for name in "ab"]
    return places(Limits(store=10), clock, *marked, item("new"), layers=layers)


def refused(found: Places, *names: str) -> list[str]:
    return [name for name in names if found.refusal(name) is not None]


def test_a_decision_counts_before_anybody_sees_it() -> None:
    found = places(Limits(caches=1), FakeClock(), item("a"), item("b"))
    assert refused(found, "a", "b") == ["b"]
    found.decided("a", "uid-a", pending())

    found.take(item("a"), gone=False)  # the informer shows the object from before that
    assert refused(found, "a", "b") == ["b"]
    found.decided("a", "uid-a", failed(NOT_FOUND))
    found.take(item("a", "Creating"), gone=False)  # and then what it was in between
    assert refused(found, "a", "b") == []


def test_a_refusal_holds_no_place_whatever_is_shown() -> None:
    found = places(Limits(caches=1), FakeClock(), item("a", "Pending"), item("b", "Ready"))
    assert refused(found, "a") == []
    found.decided("a", "uid-a", replace(pending(), attempt=Attempt(image_cache_id=ONE)))

    assert refused(found, "a") == ["a"]


def test_nothing_is_kept_of_what_is_gone() -> None:
    clock = FakeClock()
    found = places(Limits(caches=1), clock, item("a", "Ready", marked=True), item("b"))
    found.decided("a", "uid-a", ready())
    found.leaves("a", "uid-a")
    found.matched("a", clock.now())
    assert refused(found, "b") == []
    found.take(item("a"), gone=True)
    for uid in ("uid-a", "other"):
        found.decided("a", uid, ready())
        found.leaves("a", uid)
    found.matched("a", clock.now())

    assert not found._leaving | found._refused | set(found._used)
    assert set(found._decided) <= {"uid-b"}
    assert set(found._places) == {"b"}


def test_another_object_of_the_name_begins_anew() -> None:
    found = places(Limits(caches=1), FakeClock(), item("a", "Ready"), item("b"))
    found.decided("a", "uid-a", ready())
    found.take(item("a", uid="another"), gone=False)

    assert refused(found, "a", "b") == ["b"]


def test_without_limits_nothing_is_kept() -> None:
    found = places(Limits(), FakeClock(), item("a", "Ready"))

    assert (found._places, found.refusal("a"), found.eviction("a")) == ({}, None, "")


async def test_a_store_that_cannot_be_read_has_what_it_had() -> None:
    sizes = [7]

    def layers() -> Layers:
        if not sizes:
            raise StoreError("the disk is gone")
        return {ONE: {LAYER: sizes[0]}}

    found = places(Limits(store=7), FakeClock(), item("a"), layers=layers)
    assert refused(found, "a") == []
    await found.measure()
    sizes.clear()
    await found.measure()

    assert refused(found, "a") == ["a"]


async def test_an_answer_of_before_is_not_the_last_one() -> None:
    """The store may be slow: what it had when it was asked is not what it has when it answers."""
    clock, slow = FakeClock(), threading.Event()
    bundle = {name: derived_cache_id(f"uid-{name}") for name in "ab"}
    before: Layers = {bundle["a"]: {LAYER: 7}, bundle["b"]: {OTHER: 6}}
    later: Layers = {bundle["b"]: {OTHER: 6}}
    looks: list[int] = []

    def layers() -> Layers:
        looks.append(1)
        if len(looks) > 1:
            return later
        slow.wait(10)
        return before

    found = two_that_may_go(clock, layers)
    clock.advance(hours=1)
    asked = asyncio.ensure_future(found.measure())
    await asyncio.sleep(0.01)
    found.take(item("a"), gone=True)
    again = asyncio.ensure_future(found.measure())
    await asyncio.sleep(0.01)
    slow.set()
    await asyncio.gather(asked, again)

    assert (refused(found, "new"), found.eviction("b")) == ([], "")


async def test_what_has_just_gone_makes_room_before_the_store_is_looked_at_again() -> None:
    """Else another one would go for what is free already."""
    clock = FakeClock()
    bundle = {name: derived_cache_id(f"uid-{name}") for name in "ab"}
    has: Layers = {bundle["a"]: {LAYER: 7}, bundle["b"]: {OTHER: 6}}
    found = two_that_may_go(clock, lambda: has)
    await found.measure()
    clock.advance(hours=1)
    assert (bool(found.eviction("a")), bool(found.eviction("b"))) == (True, False)
    found.leaves("a", "uid-a")
    assert (found.eviction("a"), found.eviction("b")) == ("", "")
    found.take(item("a"), gone=True)
    assert (refused(found, "new"), found.eviction("b")) == ([], "")
    has = {bundle["b"]: {OTHER: 6}}
    await found.measure()

    assert (refused(found, "new"), found.eviction("b")) == ([], "")


@asynccontextmanager
async def running(found: Places) -> AsyncIterator[None]:
    task = asyncio.create_task(found.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_time_alone_makes_room() -> None:
    clock, woken = FakeClock(), set[str]()
    found = Places(Limits(caches=1), dict, clock, woken.add, interval=0.01)
    found.take(item("old", "Ready", marked=True), gone=False)
    found.take(item("new"), gone=False)
    found.matched("old", clock.now())
    assert refused(found, "new") == ["new"]
    async with running(found):
        await asyncio.sleep(0.05)
        assert woken == set()
        clock.advance(600)
        await eventually(lambda: woken >= {"old", "new"}, lambda: woken)

    assert found.eviction("old")
    assert refused(found, "new") == []
