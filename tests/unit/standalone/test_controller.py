"""Create, resume, attach, delete, expire: the object after each, whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from imagecache.api.ids import is_cache_id
from imagecache.api.types import ImageCache, NodeCounts, Phase, Status
from imagecache.builder.build_events import Advanced, ImageReady, ImageResolved, Planned
from imagecache.containerd.api import Attached
from imagecache.errors import (
    AlreadyExists,
    ContainerdUnavailable,
    ImageNotFound,
    InvalidInput,
    InvalidManifest,
    NotFound,
    RegistryUnavailable,
    StoreBusy,
)
from imagecache.standalone.events import Accepted, Built, CreateEvent
from testkit.builder import layer_record

from .conftest import Bench, eventually, manifest


def status(cache: ImageCache) -> Status:
    assert cache.status is not None
    return cache.status


def phase(bench: Bench) -> Phase | None:
    found = bench.objects.find("a")
    return found.status.phase if found and found.status else None


async def test_create_builds_and_attaches(bench: Bench) -> None:
    seen: list[CreateEvent] = []
    ready = await bench.controller.create(manifest("a", "nginx:1.25", "redis:7", retentionDays=7), watch=seen.append)

    assert ready == bench.controller.get("a")
    assert ready.metadata.creation_timestamp == "2024-05-01T12:00:00Z"
    assert ready.metadata.generation == 1
    now = status(ready)
    assert (now.phase, now.progress, now.reason) == (Phase.READY, "100%", "")
    assert is_cache_id(now.image_cache_id)
    assert now.expire_date_time == "2024-05-08T12:00:00Z"
    assert [image.image for image in now.images] == ["nginx:1.25", "redis:7"]
    assert now.size == 3 * 2000
    assert now.nodes == NodeCounts(desired=1, ready=1)
    assert [(event.reason, event.name) for event in now.events] == [
        ("Pulling", "nginx:1.25"),
        ("Pulling", "redis:7"),
        ("Pulled", "nginx:1.25"),
        ("Pulled", "redis:7"),
        ("Ready", "a"),
    ]
    assert "2 images, 3 layers" in now.events[-1].message
    kinds = [type(event) for event in seen]
    assert kinds[0] is Accepted
    assert kinds[-2:] == [Built, Attached]
    assert {ImageResolved, Planned, Advanced, ImageReady} <= set(kinds)
    assert set(bench.attacher.attached) == {"docker.io/library/nginx:1.25", "docker.io/library/redis:7"}


async def test_the_builder_gets_what_the_document_says(bench: Bench) -> None:
    await bench.controller.create(manifest("a", imageCacheSize=25), attach=False)

    (request,) = bench.builder.requests
    assert request.images == ("nginx:1.25",)
    assert request.size_limit == 25 << 30
    assert str(request.platform) == "linux/amd64"
    assert bench.attacher.attached == {}
    assert status(bench.controller.get("a")).nodes is None


async def test_a_document_that_asks_for_nonsense_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(InvalidManifest):
        await bench.controller.create(manifest("a", retentionDays=-1))

    assert bench.controller.list() == []


async def test_progress_is_in_the_object_while_it_is_built(bench: Bench) -> None:
    bench.builder.pause = asyncio.Event()
    task = asyncio.create_task(bench.controller.create(manifest("a"), attach=False))
    await eventually(lambda: phase(bench) is Phase.CREATING)

    assert status(bench.controller.get("a")).progress == "25%"
    assert bench.objects.busy("a")
    assert bench.controller.describe("a").busy
    with pytest.raises(StoreBusy, match="a is being worked on by another process"):
        await bench.controller.create(manifest("a"))
    with pytest.raises(StoreBusy):
        await bench.controller.delete("a")
    bench.builder.pause.set()
    assert status(await task).phase is Phase.READY
    assert not bench.objects.busy("a")


async def test_a_ready_cache_is_not_created_again(bench: Bench) -> None:
    before = await bench.controller.create(manifest("a"))

    with pytest.raises(AlreadyExists, match=r'^imagecaches\.eci\.alibabacloud\.com "a" already exists$'):
        await bench.controller.create(manifest("a", "redis:7"))

    assert bench.controller.get("a") == before


async def test_failure_is_in_the_status_and_the_next_create_goes_on(bench: Bench) -> None:
    with pytest.raises(ImageNotFound):
        await bench.controller.create(manifest("a", "nginx:1.25", "nginx:9"))
    failed = bench.controller.get("a")

    assert status(failed).phase is Phase.FAILED
    assert status(failed).reason == "ImageNotFound: nginx:9: the registry has no such tag; check the tag"
    assert status(failed).expire_date_time == "2024-05-02T12:00:00Z"
    last = status(failed).events[-1]
    assert (last.type, last.reason, last.name) == ("Warning", "ImageNotFound", "nginx:9")
    assert bench.attacher.attached == {}

    bench.clock.advance(60)
    seen: list[CreateEvent] = []
    ready = await bench.controller.create(manifest("a", "nginx:1.25"), watch=seen.append)

    assert isinstance(seen[0], Accepted)
    assert seen[0].resumed
    assert ready.metadata.uid == failed.metadata.uid
    assert ready.metadata.creation_timestamp == failed.metadata.creation_timestamp
    assert ready.metadata.generation == 2
    assert status(ready).image_cache_id == status(failed).image_cache_id
    assert (status(ready).reason, status(ready).expire_date_time) == ("", "")
    assert status(ready).start_time == "2024-05-01T12:01:00Z"


async def test_cancelled_is_resumable_with_the_same_id(bench: Bench) -> None:
    bench.builder.pause = asyncio.Event()
    task = asyncio.create_task(bench.controller.create(manifest("a")))
    await eventually(lambda: bool(bench.builder.requests))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stopped = bench.controller.get("a")

    assert status(stopped).phase in {Phase.PENDING, Phase.CREATING}
    assert {condition.reason for condition in status(stopped).conditions} == {"Interrupted"}
    assert not bench.objects.busy("a")
    bench.builder.pause.set()
    ready = await bench.controller.create(manifest("a"))
    assert status(ready).image_cache_id == status(stopped).image_cache_id
    assert ready.metadata.generation == 1


async def test_a_bundle_committed_before_a_crash_is_taken_over(bench: Bench) -> None:
    ready = await bench.controller.create(manifest("a"), attach=False)
    crashed = Status(phase=Phase.CREATING, progress="99%", image_cache_id=status(ready).image_cache_id)
    bench.objects.put(ready.with_status(crashed))

    again = await bench.controller.create(manifest("a"))
    assert status(again).phase is Phase.READY
    assert len(bench.builder.requests) == 1

    bench.objects.put(ready.with_status(crashed))
    await bench.controller.create(manifest("a", "redis:7"))
    assert len(bench.builder.requests) == 2
    assert bench.controller.describe("a").layers[-1].images == ("redis:7",)


async def test_when_only_attaching_fails_the_cache_is_ready(bench: Bench) -> None:
    bench.attacher.failure = ContainerdUnavailable("nobody listens at /run/x.sock", hint="start containerd")
    with pytest.raises(ContainerdUnavailable):
        await bench.controller.create(manifest("a"))
    cache = bench.controller.get("a")

    assert status(cache).phase is Phase.READY
    assert status(cache).nodes == NodeCounts(desired=1, failed=1)
    assert status(cache).events[-1].reason == "AttachFailed"

    bench.attacher.failure = None
    attached = await bench.controller.attach("a")
    assert attached.images == ("docker.io/library/nginx:1.25",)
    assert status(bench.controller.get("a")).nodes == NodeCounts(desired=1, ready=1)


async def test_only_a_ready_cache_is_attached(bench: Bench) -> None:
    with pytest.raises(ImageNotFound):
        await bench.controller.create(manifest("a", "nginx:9"))

    with pytest.raises(InvalidInput, match="a is Failed, only a Ready cache can be attached"):
        await bench.controller.attach("a")
    with pytest.raises(NotFound):
        await bench.controller.attach("nobody")


async def test_detach_keeps_what_another_attached_cache_has(bench: Bench) -> None:
    await bench.controller.create(manifest("a", "nginx:1.25", "redis:7"))
    await bench.controller.create(manifest("b", "redis:7"))

    assert await bench.controller.detach("a") == ("docker.io/library/nginx:1.25",)
    assert set(bench.attacher.attached) == {"docker.io/library/redis:7"}
    assert await bench.controller.detach("a") == ()
    assert await bench.controller.detach("b") == ("docker.io/library/redis:7",)
    assert status(bench.controller.get("b")).nodes == NodeCounts()


async def test_delete(bench: Bench) -> None:
    await bench.controller.create(manifest("a"))
    await bench.controller.create(manifest("b", "redis:7"))
    base = layer_record("base", ("base",)).name
    nginx = layer_record("nginx", ("base", "nginx")).name
    bench.collector.held[nginx] = "agent"
    other = status(bench.controller.get("b")).image_cache_id

    deleted = await bench.controller.delete("a")

    assert deleted.detached == ("docker.io/library/nginx:1.25",)
    assert dict(deleted.kept) == {str(base): (f"bundle {other}",), str(nginx): ("held by agent",)}
    assert [cache.name for cache in bench.controller.list()] == ["b"]
    assert [document.id for document in bench.bundles.all()] == [other]
    assert bench.collector.runs == 1
    with pytest.raises(NotFound, match=r'^imagecaches\.eci\.alibabacloud\.com "a" not found$'):
        await bench.controller.delete("a")


async def test_delete_without_containerd_needs_force(bench: Bench) -> None:
    await bench.controller.create(manifest("a"))
    bench.attacher.failure = ContainerdUnavailable("nobody listens")

    with pytest.raises(ContainerdUnavailable):
        await bench.controller.delete("a")
    assert status(bench.controller.get("a")).phase is Phase.READY
    assert len(bench.bundles.documents) == 1

    await bench.controller.delete("a", force=True)
    assert bench.controller.list() == []
    assert bench.bundles.documents == {}


async def test_delete_of_a_failed_cache_asks_nobody(bench: Bench) -> None:
    bench.builder.failure = RegistryUnavailable("no answer")
    bench.attacher.failure = ContainerdUnavailable("nobody listens")
    with pytest.raises(RegistryUnavailable):
        await bench.controller.create(manifest("a"))

    assert (await bench.controller.delete("a")).kept == ()


async def test_expiry_by_retention_and_24_hours_after_failure(bench: Bench) -> None:
    await bench.controller.create(manifest("kept"))
    await bench.controller.create(manifest("short", retentionDays=2))
    with pytest.raises(ImageNotFound):
        await bench.controller.create(manifest("failed", "nginx:9"))

    assert (await bench.controller.expire()).deleted == ()
    bench.clock.advance(hours=24)
    assert [deleted.cache.name for deleted in (await bench.controller.expire()).deleted] == ["failed"]
    bench.clock.advance(hours=24)
    with bench.objects.locked("short"):
        assert (await bench.controller.expire()).deleted == ()
    bench.attacher.failure = ContainerdUnavailable("nobody listens")
    assert [name for name, _error in (await bench.controller.expire()).failed] == ["short"]
    bench.attacher.failure = None
    assert [deleted.cache.name for deleted in (await bench.controller.expire()).deleted] == ["short"]
    assert [cache.name for cache in bench.controller.list()] == ["kept"]


async def test_describe_says_who_shares(bench: Bench) -> None:
    await bench.controller.create(manifest("a", "nginx:1.25", "redis:7"))
    await bench.controller.create(manifest("b", "redis:7"))

    shared = [(layer.images, layer.shared_with) for layer in bench.controller.describe("a").layers]

    assert shared == [
        (("nginx:1.25", "redis:7"), ("b",)),
        (("nginx:1.25",), ()),
        (("redis:7",), ("b",)),
    ]


async def test_describe_before_there_is_a_bundle(bench: Bench) -> None:
    with pytest.raises(ImageNotFound):
        await bench.controller.create(manifest("a", "nginx:9"))
    bench.objects.put(manifest("raw"))

    assert bench.controller.describe("a").bundle is None
    assert bench.controller.describe("raw").layers == ()
    with pytest.raises(InvalidInput, match="raw is new"):
        await bench.controller.attach("raw")
    assert await bench.controller.detach("raw") == ()
    assert status(await bench.controller.create(manifest("raw"))).phase is Phase.READY
