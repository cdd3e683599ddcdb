"""The same images anew: by a new value of an annotation, or by a schedule; and what is no reason for it."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest

from imagecache.api import phases
from imagecache.api.nodes import REFRESH, REFRESH_SCHEDULE
from imagecache.api.types import ImageCache, Phase, Status
from imagecache.controller.decision import Broken, DeleteBundle, Ended, Role, Running, StartBuild, StopBuild
from imagecache.kube.resources import IMAGE_CACHES
from imagecache.store.bundle_document import Bundle
from tests.unit.controller.situations import (
    DAY,
    HAS_ONE,
    NOT_FOUND,
    NOW,
    ONE,
    REDIS,
    THREE,
    TWO,
    A,
    Case,
    bundle,
    cache,
    condition,
    failed,
    look,
    ready,
    ready_with,
    request,
    settled,
    tried,
)

from .conftest import Bench, eventually, manifest
from .test_reconciler import conditions, reasons

NIGHTLY = "0 3 * * *"
HOUR = dt.timedelta(hours=1)
AT_THREE = NOW + 15 * HOUR
OLD = bundle(ONE, created=NOW - DAY)
IS_OLD: dict[str, Any] = {"bundles": {ONE: OLD}}
"""From before the last time of the schedule."""


def refreshed(value: str, *images: str, **more: Any) -> ImageCache:
    return cache(*images, annotations={REFRESH: value} if value else {}, **more)


def scheduled(text: str = NIGHTLY, *images: str, **more: Any) -> ImageCache:
    return cache(*images, annotations={REFRESH_SCHEDULE: text}, **more)


def revision(value: str) -> str:
    return request(ONE, refreshed(value)).revision


ASKED = refreshed("1")
ONE_BUNDLE = bundle(ONE)
OF_ASKED = bundle(TWO, revision=revision("1"))
BUILD_ASKED = StartBuild(request(TWO, ASKED))


def updating(of: ImageCache, bundle_id: str = TWO, before: Bundle = ONE_BUNDLE) -> Status:
    """The same images are being built anew."""
    begun = phases.update(ready_with(before), 1, NOW)
    return phases.started(begun, 1, NOW, attempt=tried(of, bundle_id))


def update_failed(of: ImageCache, before: Bundle = ONE_BUNDLE) -> Status:
    return phases.failed(
        updating(of, before=before), 1, NOW, reason=NOT_FOUND.reason, message=f"{NOT_FOUND}; {NOT_FOUND.hint}"
    )


CASES: dict[str, Case] = {
    # a value
    "a-first-value-builds-the-same-images-anew": Case(
        ASKED.with_status(settled(ready())),
        HAS_ONE,
        actions=(BUILD_ASKED,),
        phase=Phase.UPDATING,
        events=("Updating",),
        check=lambda s: (
            (condition(s, "Serving"), s.events[-1].message)
            == (("True", "Updating"), "Image cache is built again: a refresh is asked for")
        ),
    ),
    "the-new-content-replaces-the-old": Case(
        ASKED.with_status(updating(ASKED)),
        {"bundles": {ONE: bundle(ONE), TWO: OF_ASKED}, "build": Ended(request(TWO, ASKED))},
        actions=(StopBuild(), DeleteBundle(ONE)),
        phase=Phase.READY,
        id=TWO,
        events=("Ready",),
    ),
    "also-when-the-controller-was-killed-between-the-two": Case(
        ASKED.with_status(updating(ASKED)),
        {"bundles": {ONE: bundle(ONE), TWO: OF_ASKED}},
        actions=(DeleteBundle(ONE),),
        phase=Phase.READY,
        id=TWO,
        events=("Ready",),
    ),
    "a-killed-controller-goes-on-with-the-same": Case(
        ASKED.with_status(updating(ASKED)), HAS_ONE, actions=(BUILD_ASKED,), phase=Phase.UPDATING
    ),
    "a-status-from-before-repeats-nothing": Case(
        ASKED.with_status(settled(ready())),
        {"bundles": {TWO: OF_ASKED}},
        phase=Phase.READY,
        id=TWO,
        events=("Ready",),
    ),
    "the-same-value-builds-nothing": Case(
        ASKED.with_status(settled(ready_with(OF_ASKED), of=ASKED, bundles={TWO: OF_ASKED})),
        {"bundles": {TWO: OF_ASKED}},
        id=TWO,
    ),
    "a-value-that-is-removed-builds-nothing": Case(
        A.with_status(settled(ready_with(OF_ASKED), bundles={TWO: OF_ASKED})), {"bundles": {TWO: OF_ASKED}}, id=TWO
    ),
    "a-blank-one-is-none": Case(refreshed("  ").with_status(settled(ready())), HAS_ONE),
    "another-value-while-it-is-built-is-what-is-built": Case(
        refreshed("2").with_status(updating(ASKED)),
        HAS_ONE | {"build": Running(request(TWO, ASKED), 30, 100)},
        actions=(StopBuild(), StartBuild(request(THREE, refreshed("2")))),
        phase=Phase.UPDATING,
    ),
    "one-that-is-removed-while-it-is-built-takes-it-back": Case(
        A.with_status(updating(ASKED)),
        HAS_ONE | {"build": Running(request(TWO, ASKED), 30, 100)},
        actions=(StopBuild(),),
        phase=Phase.READY,
        events=("Ready",),
    ),
    "one-that-could-not-be-built-keeps-the-old": Case(
        ASKED.with_status(updating(ASKED)),
        HAS_ONE | {"build": Broken(request(TWO, ASKED), NOT_FOUND)},
        actions=(StopBuild(),),
        phase=Phase.UPDATE_FAILED,
        events=("ImageNotFound",),
        watches=("configuration",),
        problem=NOT_FOUND,
    ),
    "and-is-not-built-again-by-itself": Case(
        ASKED.with_status(settled(update_failed(ASKED), of=ASKED)), HAS_ONE, watches=("configuration",)
    ),
    "but-with-another-value": Case(
        refreshed("2").with_status(update_failed(ASKED)),
        HAS_ONE,
        actions=(StartBuild(request(THREE, refreshed("2"))),),
        phase=Phase.UPDATING,
        events=("Retrying",),
    ),
    "a-host-does-the-same": Case(
        ASKED.with_status(settled(ready())),
        HAS_ONE | {"role": Role.HOST_AGENT},
        actions=(BUILD_ASKED,),
        phase=Phase.UPDATING,
        events=("Updating",),
    ),
    # a schedule
    "before-its-time-it-is-waited-for": Case(
        scheduled().with_status(settled(ready(), of=scheduled())), HAS_ONE, again=15 * 3600
    ),
    "at-its-time-the-same-images-are-built-anew": Case(
        scheduled().with_status(settled(ready(), of=scheduled())),
        HAS_ONE,
        actions=(StartBuild(request(TWO, scheduled())),),
        phase=Phase.UPDATING,
        events=("Updating",),
        check=lambda s: s.events[-1].message.endswith("its refresh schedule was due at 2024-05-02T03:00:00Z"),
        at=AT_THREE,
    ),
    "one-that-was-missed-is-made-up-for-once": Case(
        scheduled().with_status(settled(ready(), of=scheduled())),
        HAS_ONE,
        actions=(StartBuild(request(TWO, scheduled())),),
        phase=Phase.UPDATING,
        events=("Updating",),
        check=lambda s: s.events[-1].message.endswith("2024-05-08T03:00:00Z"),
        at=NOW + 7 * DAY,
    ),
    "the-old-content-is-not-taken-for-the-new": Case(
        scheduled().with_status(updating(scheduled())),
        HAS_ONE,
        actions=(StartBuild(request(TWO, scheduled())),),
        phase=Phase.UPDATING,
        at=AT_THREE,
    ),
    "what-was-built-since-then-replaces-it": Case(
        scheduled().with_status(updating(scheduled())),
        {"bundles": {ONE: bundle(ONE), TWO: bundle(TWO, created=AT_THREE)}},
        actions=(DeleteBundle(ONE),),
        phase=Phase.READY,
        id=TWO,
        events=("Ready",),
        again=24 * 3600,
        at=AT_THREE,
    ),
    "a-build-that-ended-just-before-the-next-time-counts-and-is-repeated-later": Case(
        scheduled("* * * * *").with_status(updating(scheduled("* * * * *"))),
        {
            "bundles": {ONE: bundle(ONE), TWO: bundle(TWO, created=NOW + dt.timedelta(seconds=119))},
            "build": Ended(request(TWO, scheduled("* * * * *"))),
        },
        actions=(StopBuild(), DeleteBundle(ONE)),
        phase=Phase.READY,
        id=TWO,
        events=("Ready",),
        again=60,
        at=NOW + dt.timedelta(seconds=120),
    ),
    "a-build-goes-on-while-its-schedule-is-due-again": Case(
        scheduled("* * * * *").with_status(updating(scheduled("* * * * *"))),
        HAS_ONE | {"build": Running(request(TWO, scheduled("* * * * *")), 30, 100)},
        phase=Phase.UPDATING,
        check=lambda s: s.progress == "30%",
        at=NOW + HOUR,
    ),
    "what-failed-is-tried-at-the-next-time": Case(
        scheduled().with_status(settled(update_failed(scheduled(), OLD), of=scheduled(), **IS_OLD)),
        IS_OLD,
        actions=(StartBuild(request(TWO, scheduled())),),
        phase=Phase.UPDATING,
        events=("Retrying",),
        at=AT_THREE,
    ),
    "and-not-before": Case(
        scheduled().with_status(settled(update_failed(scheduled(), OLD), of=scheduled(), **IS_OLD)),
        IS_OLD,
        watches=("configuration",),
        again=15 * 3600 - 1,
        at=NOW + dt.timedelta(seconds=1),
    ),
    "a-first-build-that-failed-expires-all-the-same": Case(
        scheduled().with_status(settled(failed(NOT_FOUND, of=scheduled()), of=scheduled(), bundles={})),
        again=9 * 3600,
        watches=("configuration",),
        at=AT_THREE,
    ),
    # one that is none
    "a-schedule-that-is-none-is-said-and-disturbs-nothing": Case(
        scheduled("daily").with_status(settled(ready())),
        HAS_ONE,
        phase=Phase.READY,
        events=("InvalidSchedule",),
        check=lambda s: (
            (condition(s, "Ready"), condition(s, "Degraded"), s.events[-1].type)
            == (("True", "Built"), ("True", "InvalidSchedule"), "Warning")
        ),
    ),
    "once": Case(scheduled("daily").with_status(settled(ready(), of=scheduled("daily"))), HAS_ONE),
    "and-is-over-when-it-is-corrected": Case(
        scheduled().with_status(settled(ready(), of=scheduled("daily"))),
        HAS_ONE,
        phase=Phase.READY,
        again=15 * 3600,
        check=lambda s: condition(s, "Degraded") == ("False", "AsExpected"),
    ),
    "a-cache-with-one-is-built": Case(
        scheduled("daily"),
        actions=(StartBuild(request(ONE, scheduled("daily"))),),
        phase=Phase.PENDING,
        events=("InvalidSchedule",),
    ),
    "and-edited": Case(
        scheduled("daily", REDIS, generation=2).with_status(settled(ready(), of=scheduled("daily"))),
        HAS_ONE,
        actions=(StartBuild(request(TWO, scheduled("daily", REDIS))),),
        phase=Phase.UPDATING,
        events=("Updating",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_decide(name: str) -> None:
    CASES[name].hold()


def test_what_is_wrong_with_a_schedule_names_the_annotation_and_an_example() -> None:
    status = look(scheduled("61 * * * *")).status
    assert status is not None
    degraded = phases.condition(status, "Degraded")
    assert degraded is not None

    assert degraded.message == (
        "metadata.annotations[imagecache.dev/refresh-schedule]: '61 * * * *' is no schedule: "
        "minute: '61' is not 0 to 59; "
        'write it as "0 3 * * *" (each day at 03:00 UTC): minute, hour, day of the month, month, day of the week'
    )


async def annotate(bench: Bench, key: str, value: str | None, name: str = "a") -> None:
    await bench.kube.patch(IMAGE_CACHES, name, {"metadata": {"annotations": {key: value}}})


async def test_a_refresh_is_an_atomic_switch(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest())
    before = await bench.phase(Phase.READY)
    bench.builder.pause = asyncio.Event()
    await annotate(bench, REFRESH, "2024-05-01")
    meanwhile = await bench.until(lambda status: status.progress == "25%")

    assert (meanwhile.phase, meanwhile.image_cache_id) == (Phase.UPDATING, before.image_cache_id)
    assert meanwhile.images == before.images
    assert conditions(meanwhile)["Serving"] == ("True", "Updating")
    assert before.image_cache_id in bench.store.documents
    bench.builder.pause.set()
    after = await bench.phase(Phase.READY)
    assert after.image_cache_id != before.image_cache_id
    await eventually(lambda: list(bench.store.documents) == [after.image_cache_id], lambda: bench.store.documents)
    await annotate(bench, REFRESH, None)
    await annotate(bench, REFRESH, "2024-05-01")
    await asyncio.sleep(0.05)
    assert len(bench.builder.requests) == 2


async def test_a_schedule_is_kept_over_days_and_restarts(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest(annotations={REFRESH_SCHEDULE: NIGHTLY}))
    known = [(await bench.phase(Phase.READY)).image_cache_id]
    for day in range(3):
        await bench.kill()
        bench.start()
        await eventually(lambda: bench.controller.informers.caches, lambda: "a")
        bench.controller.queue.add("a")
        await asyncio.sleep(0.02)
        assert len(bench.builder.requests) == day + 1, "not again after a restart"
        await bench.kill()
        bench.clock.advance(days=1)  # it is due while nobody is there
        bench.start()
        status = await bench.until(lambda status: status.phase is Phase.READY and status.image_cache_id not in known)
        known.append(status.image_cache_id)

    assert len(bench.builder.requests) == 4
    assert reasons((await bench.status()).events).count("Updating") == 3


async def test_a_schedule_wakes_the_controller_by_itself(bench: Bench) -> None:
    bench.clock.advance(seconds=14 * 3600 + 3599.9)
    bench.start()
    await bench.create(manifest(annotations={REFRESH_SCHEDULE: NIGHTLY}))
    before = await bench.phase(Phase.READY)
    bench.clock.advance(seconds=0.2)

    await bench.until(lambda status: status.image_cache_id not in {"", before.image_cache_id})


def test_of_a_value_a_fingerprint_is_kept() -> None:
    long = "x" * 100_000

    assert revision("") == ""
    assert len({revision("1"), revision("2"), revision(long)}) == 3
    assert {len(revision(each)) for each in ("1", long)} == {16}
