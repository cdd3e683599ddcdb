"""Tags that move: when they are looked up, with what, and what of it the status says."""

from __future__ import annotations

import asyncio

import pytest

from imagecache.api import phases
from imagecache.api.nodes import REFRESH
from imagecache.api.tags import TagQuestion
from imagecache.api.types import Phase, Status
from imagecache.controller.tag_checks import TagChecks
from imagecache.errors import InternalError, KubernetesDenied, KubernetesUnavailable, RateLimited
from imagecache.kube.resources import IMAGE_CACHES
from testkit.tags import FakeTagReader

from .conftest import Bench, eventually, manifest
from .test_matches import quiet, writes
from .test_reconciler import conditions

HOUR = 3600.0
NGINX, REDIS = "nginx:1.25", "redis:7"
MOVED = "sha256:" + "f" * 64


def checks(bench: Bench, reader: FakeTagReader, interval: float = HOUR) -> TagChecks:
    return TagChecks(
        kube=bench.kube,
        reader=reader,
        caches=lambda: bench.controller.informers.caches,
        report=bench.controller.checked,
        clock=bench.clock,
        interval=interval,
    )


async def ready(bench: Bench, name: str = "a", *images: str, **more: object) -> Status:
    await bench.create(manifest(name, *images, **more))  # type: ignore[arg-type]  # JSON, as written
    await bench.phase(Phase.READY, name)
    await eventually(lambda: bench.controller.informers.caches[name].get("status"), lambda: name)
    await quiet(bench, name)
    return await bench.status(name)


def named(status: Status, image: str = NGINX) -> str:
    return next(each.digest for each in status.images if each.image == image)


def tag(status: Status) -> list[tuple[str, bool, str]]:
    return [(each.last_checked_time, each.drifted, each.current_digest) for each in status.images]


async def checked(bench: Bench, checks: TagChecks, hours: float = 1) -> Status:
    """An hour later, when each tag has been looked up once."""
    bench.clock.advance(hours=hours)
    await checks.check()
    await quiet(bench)
    return await bench.status()


async def test_a_tag_that_moved_is_said_once_and_a_refresh_ends_it(bench: Bench) -> None:
    bench.start()
    before = await ready(bench)
    reader = FakeTagReader({NGINX: named(before)})
    work = checks(bench, reader)
    same = await checked(bench, work)
    assert tag(same) == [("2024-05-01T13:00:00Z", False, "")]
    assert conditions(same)["TagDrifted"] == ("False", "AsExpected")

    reader.tags[NGINX] = MOVED
    moved = await checked(bench, work)
    assert tag(moved) == [("2024-05-01T14:00:00Z", True, MOVED)]
    assert conditions(moved)["TagDrifted"] == ("True", "TagMoved")
    assert (moved.phase, moved.image_cache_id) == (Phase.READY, before.image_cache_id)
    await bench.kube.patch(IMAGE_CACHES, "a", {"metadata": {"annotations": {REFRESH: "1"}}})
    after = await bench.until(
        lambda status: status.phase is Phase.READY and status.image_cache_id != before.image_cache_id
    )
    assert conditions(after)["TagDrifted"] == ("False", "AsExpected"), "it has just been looked up"
    assert tag(after) == [("", False, "")]
    reader.tags[NGINX] = named(after)
    await quiet(bench)
    fresh = await checked(bench, work)
    assert conditions(fresh)["TagDrifted"] == ("False", "AsExpected")
    assert tag(fresh) == [("2024-05-01T15:00:00Z", False, "")]


async def test_nothing_is_written_for_the_time_of_a_look_up_within_an_hour(bench: Bench) -> None:
    bench.start()
    reader = FakeTagReader({NGINX: named(await ready(bench))})
    work = checks(bench, reader, interval=300)
    await checked(bench, work)
    before = writes(bench)
    for _ in range(11):
        await checked(bench, work, hours=1 / 12)
    assert (len(reader.asked), writes(bench)) == (12, before)

    status = await checked(bench, work, hours=1 / 12)
    assert writes(bench) == before + 1
    assert tag(status) == [("2024-05-01T14:00:00Z", False, "")]


async def test_an_error_is_no_drift_and_is_not_repeated_soon(bench: Bench) -> None:
    bench.start()
    before = await ready(bench)
    reader = FakeTagReader({NGINX: RateLimited("too many", image=NGINX)})
    work = checks(bench, reader)
    assert await checked(bench, work) == before
    for _ in range(3):
        await work.check()
    assert len(reader.asked) == 1

    reader.failure = InternalError("the process was killed")
    bench.clock.advance(hours=1)
    with pytest.raises(InternalError):
        await work.check()
    reader.failure = None
    await work.check()
    assert len(reader.asked) == 2
    reader.tags[NGINX] = MOVED
    assert conditions(await checked(bench, work))["TagDrifted"] == ("True", "TagMoved")
    reader.tags[NGINX] = RateLimited("too many", image=NGINX)
    assert conditions(await checked(bench, work))["TagDrifted"] == ("True", "TagMoved"), "it says nothing new"


async def test_another_controller_does_not_begin_anew(bench: Bench) -> None:
    bench.start()
    reader = FakeTagReader({NGINX: named(await ready(bench))})
    await checked(bench, checks(bench, reader))
    bench.clock.advance(seconds=1)
    await checks(bench, reader).check()

    assert len(reader.asked) == 1


async def test_one_look_up_is_for_all_caches_that_ask_in_the_same_way(bench: Bench) -> None:
    plain = {"k8s.aliyun.com/plain-http-registry": "reg:5000"}
    bench.start()
    before = await ready(bench)
    await ready(bench, "b", NGINX, REDIS)
    await ready(bench, "c", annotations=plain)
    reader = FakeTagReader({NGINX: MOVED, REDIS: named(await bench.status("b"), REDIS)})
    await checked(bench, checks(bench, reader))

    assert set(reader.asked) == {
        TagQuestion(NGINX),
        TagQuestion(REDIS),
        TagQuestion(NGINX, plain_http=frozenset({"reg:5000"})),
    }
    assert len(reader.asked) == 3
    for name in "abc":
        status = await bench.until(lambda status: bool(phases.condition(status, "TagDrifted")), name)
        assert conditions(status)["TagDrifted"] == ("True", "TagMoved")
    assert [each.drifted for each in (await bench.status("b")).images] == [True, False]
    assert before.images[0].digest == (await bench.status()).images[0].digest


async def test_a_digest_is_never_looked_up(bench: Bench) -> None:
    image = "redis@sha256:" + "a" * 64
    bench.builder.images = {image: ("base",)}
    bench.start()
    await ready(bench, "a", image)
    reader = FakeTagReader()
    await checked(bench, checks(bench, reader), hours=100)

    assert reader.asked == []


async def test_what_is_built_or_goes_is_not_looked_up(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest("failed", "nginx:9"))
    await bench.phase(Phase.FAILED, "failed")
    reader = FakeTagReader()
    bench.clock.advance(hours=2)
    await checks(bench, reader).check()

    assert reader.asked == []


async def test_the_caches_own_secrets_are_used_and_fetched_once(bench: Bench) -> None:
    await bench.secret("cred", "good")
    bench.start()
    await ready(bench, "a", NGINX, REDIS, imagePullSecrets=["default:cred"])
    reader = FakeTagReader({NGINX: MOVED, REDIS: MOVED})
    await checked(bench, checks(bench, reader))

    assert {each.secrets for each in reader.asked} == {("default:cred",)}
    assert [[secret.name for secret in each] for each in reader.secrets] == [["default:cred"]]


async def test_a_secret_that_is_gone_is_no_drift_and_no_news_for_others(bench: Bench) -> None:
    await bench.secret("cred", "good")
    bench.start()
    before = await ready(bench, "a", NGINX, imagePullSecrets=["default:cred"])
    await ready(bench, "b", REDIS)
    work = checks(bench, FakeTagReader({NGINX: MOVED, REDIS: MOVED}))
    bench.kube.failure = lambda verb, _resource, name: (
        KubernetesDenied("not allowed") if (verb, name) == ("get", "cred") else None
    )
    status = await checked(bench, work)

    assert status == before
    await bench.until(lambda status: bool(phases.condition(status, "TagDrifted")), "b")


async def test_a_batch_is_bounded_and_the_rest_follows(bench: Bench) -> None:
    images = {f"app:{number}": ("base",) for number in range(5)}
    bench.builder.images = images
    bench.start()
    await ready(bench, "a", *images)
    reader = FakeTagReader(dict.fromkeys(images, MOVED))
    work = checks(bench, reader)
    work.batch = 2
    bench.clock.advance(hours=1)
    counts = []
    for _ in range(4):
        await work.check()
        counts.append(len(reader.asked))

    assert counts == [2, 4, 5, 5]
    assert {each.image for each in reader.asked} == set(images)


async def test_nothing_is_looked_up_while_secrets_cannot_be_read(bench: Bench) -> None:
    bench.start()
    await bench.secret("cred", "good")
    await ready(bench, "a", imagePullSecrets=["default:cred"])
    work = checks(bench, reader := FakeTagReader({NGINX: MOVED}))
    bench.clock.advance(hours=1)
    before = bench.kube.failure
    bench.kube.failure = lambda verb, _resource, name: (
        KubernetesUnavailable("away") if (verb, name) == ("get", "cred") else None
    )
    with pytest.raises(KubernetesUnavailable):
        await work.check()
    bench.kube.failure = before
    await work.check()

    assert len(reader.asked) == 1


async def test_it_looks_by_itself(bench: Bench) -> None:
    bench.start()
    await ready(bench)
    reader = FakeTagReader({NGINX: MOVED})
    bench.clock.advance(300)
    work = checks(bench, reader, interval=0.04)
    bench.tasks.append(asyncio.create_task(work.run()))

    await bench.until(lambda status: bool(phases.condition(status, "TagDrifted")))
