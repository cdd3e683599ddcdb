"""The verbs of a host without Kubernetes: the object after each, whatever happens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import msgspec
import pytest

from imagecache.api import phases
from imagecache.api.ids import is_cache_id
from imagecache.api.types import NodeCounts, Phase
from imagecache.api.yamltext import JSON
from imagecache.builder.build_events import Advanced, ImageReady, ImageResolved, Planned
from imagecache.containerd.api import Attached
from imagecache.errors import (
    AlreadyExists,
    ContainerdUnavailable,
    ImageNotFound,
    InvalidInput,
    InvalidManifest,
    NoSpace,
    NotFound,
    RegistryUnavailable,
    StoreBusy,
    StoreCorrupt,
)
from imagecache.kube.api import Object
from imagecache.kube.object_files import ObjectFiles
from imagecache.plain_host.verbs import Accepted, Built, ShownEvent
from imagecache.store.collect import Collected
from testkit.builder import layer_record
from tests.unit.plain_host.bench import Bench, eventually, manifest, status_of


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_create_builds_and_attaches(bench: Bench) -> None:
    seen: list[ShownEvent] = []
    ready = await bench.host.create(manifest("a", "nginx:1.25", "redis:7", retentionDays=7), show=seen.append)

    assert ready == bench.host.get("a")
    assert ready.metadata.creation_timestamp == "2024-05-01T12:00:00Z"
    assert ready.metadata.generation == 1
    now = status_of(ready)
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
        ("NodesReady", "a"),
    ]
    assert "2 images, 3 layers" in now.events[-2].message
    kinds = [type(event) for event in seen]
    assert kinds[0] is Accepted
    assert kinds[-2:] == [Built, Attached]
    assert {ImageResolved, Planned, Advanced, ImageReady} <= set(kinds)
    assert [event.cache_id for event in seen if isinstance(event, Accepted | Built)] == [now.image_cache_id] * 2
    assert set(bench.attacher.attached) == {"docker.io/library/nginx:1.25", "docker.io/library/redis:7"}


async def test_the_builder_gets_what_the_document_says(bench: Bench) -> None:
    await bench.host.create(manifest("a", imageCacheSize=25), attach=False)

    (request,) = bench.builder.requests
    assert request.images == ("nginx:1.25",)
    assert request.size_limit == 25 << 30
    assert (list(map(str, request.platforms)), request.complete) == (["linux/amd64"], False)
    assert bench.attacher.attached == {}
    assert bench.status().nodes is None


async def test_a_document_that_asks_for_nonsense_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(InvalidManifest):
        await bench.host.create(manifest("a", retentionDays=-1))

    assert bench.host.list() == []


async def test_progress_is_in_the_object_while_it_is_built(bench: Bench) -> None:
    bench.builder.pause = asyncio.Event()
    task = asyncio.create_task(bench.host.create(manifest("a"), attach=False))
    await eventually(lambda: bench.phase() is Phase.CREATING)

    assert bench.status().progress == "25%"
    assert bench.host.describe("a").busy
    for verb in (bench.host.create(manifest("a")), bench.host.apply(manifest("a")), bench.host.delete("a")):
        with pytest.raises(StoreBusy, match="a is being worked on by another process"):
            await verb
    bench.builder.pause.set()
    assert status_of(await task).phase is Phase.READY
    assert not bench.files.busy("a")


async def test_a_cache_with_a_bundle_is_not_created_again(bench: Bench) -> None:
    before = await bench.host.create(manifest("a"))

    with pytest.raises(AlreadyExists, match=r'^imagecaches\.eci\.alibabacloud\.com "a" already exists$') as caught:
        await bench.host.create(manifest("a", "redis:7"))

    assert "imagecache apply -f" in caught.value.hint
    assert bench.host.get("a") == before


async def test_failure_is_in_the_status_and_the_next_create_goes_on(bench: Bench) -> None:
    with pytest.raises(ImageNotFound):
        await bench.host.create(manifest("a", "nginx:1.25", "nginx:9"))
    failed = bench.host.get("a")

    assert status_of(failed).phase is Phase.FAILED
    assert status_of(failed).reason == "ImageNotFound: nginx:9: the registry has no such tag; check the tag"
    assert status_of(failed).expire_date_time == "2024-05-02T12:00:00Z"
    last = status_of(failed).events[-1]
    assert (last.type, last.reason, last.name) == ("Warning", "ImageNotFound", "nginx:9")
    assert bench.attacher.attached == {}

    bench.clock.advance(60)
    seen: list[ShownEvent] = []
    ready = await bench.host.create(manifest("a", "nginx:1.25"), show=seen.append)

    assert isinstance(seen[0], Accepted)
    assert seen[0].how == "resumed"
    assert ready.metadata.uid == failed.metadata.uid
    assert ready.metadata.creation_timestamp == failed.metadata.creation_timestamp
    assert ready.metadata.generation == 2
    assert status_of(ready).image_cache_id == status_of(failed).image_cache_id
    assert (status_of(ready).reason, status_of(ready).expire_date_time) == ("", "")
    assert status_of(ready).start_time == "2024-05-01T12:01:00Z"


async def test_a_failure_that_time_ends_needs_no_change(bench: Bench) -> None:
    bench.builder.failure = RegistryUnavailable("no answer")
    with pytest.raises(RegistryUnavailable):
        await bench.host.create(manifest("a"))
    bench.builder.failure = None

    ready = await bench.host.create(manifest("a"))
    assert (status_of(ready).phase, ready.metadata.generation) == (Phase.READY, 1)
    assert bench.reasons()[:2] == ["RegistryUnavailable", "Retrying"]


async def test_cancelled_is_resumable_with_the_same_id(bench: Bench) -> None:
    bench.builder.pause = asyncio.Event()
    task = asyncio.create_task(bench.host.create(manifest("a", retentionDays=2)))
    await eventually(lambda: bool(bench.builder.requests))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stopped = bench.host.get("a")

    assert status_of(stopped).phase in {Phase.PENDING, Phase.CREATING}
    reasons = {condition.type: condition.reason for condition in status_of(stopped).conditions}
    assert (reasons["Ready"], reasons["Building"]) == ("Interrupted", "Interrupted")
    assert bench.builder.running == 0
    assert not bench.files.busy("a")
    bench.builder.pause.set()
    bench.clock.advance(days=3)
    ready = await bench.host.create(manifest("a", retentionDays=2))
    assert status_of(ready).image_cache_id == status_of(stopped).image_cache_id
    assert ready.metadata.generation == 1
    assert status_of(ready).expire_date_time == "2024-05-06T12:00:00Z"


async def test_a_bundle_committed_before_a_crash_is_taken_over(bench: Bench) -> None:
    ready = await bench.host.create(manifest("a"), attach=False)
    crashed: JSON = {
        "phase": "Creating",
        "progress": "99%",
        "imageCacheId": status_of(ready).image_cache_id,
        "startTime": "x",
    }
    bench.put(ready, status=crashed)

    again = await bench.host.create(manifest("a"))
    assert status_of(again).phase is Phase.READY
    assert len(bench.builder.requests) == 1

    bench.put(ready, status=crashed)
    await bench.host.create(manifest("a", "redis:7"))
    assert len(bench.builder.requests) == 2
    assert bench.host.describe("a").layers[-1].images == ("redis:7",)


async def test_when_only_attaching_fails_the_cache_is_ready(bench: Bench) -> None:
    bench.attacher.failure = ContainerdUnavailable("nobody listens at /run/x.sock", hint="start containerd")
    with pytest.raises(ContainerdUnavailable):
        await bench.host.create(manifest("a"))

    assert bench.status().phase is Phase.READY
    assert bench.status().nodes == NodeCounts(desired=1, failed=1)
    last = bench.status().events[-1]
    assert (last.reason, last.message) == ("AttachFailed", "nobody listens at /run/x.sock; start containerd")
    degraded = next(entry for entry in bench.status().conditions if entry.type == "Degraded")
    assert (degraded.reason, degraded.message) == ("NodesFailed", "1 of 1 node; see imagecache describe a")

    bench.attacher.failure = None
    attached = await bench.host.attach("a")
    assert list(attached.images) == ["docker.io/library/nginx:1.25"]
    assert bench.status().nodes == NodeCounts(desired=1, ready=1)


async def test_only_a_cache_with_a_bundle_is_attached(bench: Bench) -> None:
    with pytest.raises(ImageNotFound):
        await bench.host.create(manifest("a", "nginx:9"))

    with pytest.raises(InvalidInput, match="a is Failed, only a Ready cache can be attached"):
        await bench.host.attach("a")
    with pytest.raises(NotFound):
        await bench.host.attach("nobody")
    with pytest.raises(NotFound):
        await bench.host.detach("nobody")


async def test_detach_keeps_what_another_attached_cache_has(bench: Bench) -> None:
    await bench.host.create(manifest("a", "nginx:1.25", "redis:7"))
    await bench.host.create(manifest("b", "redis:7"))

    assert await bench.host.detach("a") == ("docker.io/library/nginx:1.25",)
    assert set(bench.attacher.attached) == {"docker.io/library/redis:7"}
    assert await bench.host.detach("a") == ()
    assert await bench.host.detach("b") == ("docker.io/library/redis:7",)
    assert bench.status("b").nodes == NodeCounts()


async def test_detach_begins_no_build(bench: Bench) -> None:
    await bench.host.create(manifest("a"))
    bench.store.documents.clear()

    await bench.host.detach("a")
    assert (bench.status().phase, bench.status().nodes) == (Phase.READY, NodeCounts())
    assert len(bench.builder.requests) == 1


async def test_a_selector_for_nodes_means_nothing_here(bench: Bench) -> None:
    await bench.host.create(manifest("a", annotations={"imagecache.dev/node-selector": "pool=gpu"}))

    assert bench.status().nodes == NodeCounts(desired=1, ready=1)


async def test_delete(bench: Bench) -> None:
    await bench.host.create(manifest("a"))
    await bench.host.create(manifest("b", "redis:7"))
    base = layer_record("base", ("base",)).name
    nginx = layer_record("nginx", ("base", "nginx")).name
    bench.store.held[nginx] = "agent"
    other = bench.status("b").image_cache_id

    deleted = await bench.host.delete("a")

    assert deleted.detached == ("docker.io/library/nginx:1.25",)
    assert dict(deleted.kept) == {str(base): (f"bundle {other}",), str(nginx): ("leased by agent",)}
    assert [cache.name for cache in bench.host.list()] == ["b"]
    assert [document.id for document in bench.store.all()] == [other]
    assert bench.store.collections == 1
    with pytest.raises(NotFound, match=r'^imagecaches\.eci\.alibabacloud\.com "a" not found$'):
        await bench.host.delete("a")


async def test_delete_without_containerd_needs_force(bench: Bench) -> None:
    await bench.host.create(manifest("a"))
    bench.attacher.failure = ContainerdUnavailable("nobody listens")

    with pytest.raises(ContainerdUnavailable):
        await bench.host.delete("a")
    assert bench.status().phase is Phase.READY
    assert bench.host.get("a").metadata.deletion_timestamp == ""
    assert len(bench.store.documents) == 1

    await bench.host.delete("a", force=True)
    assert bench.host.list() == []
    assert bench.store.documents == {}


async def test_delete_of_a_failed_cache_asks_nobody(bench: Bench) -> None:
    bench.builder.failure = RegistryUnavailable("no answer")
    bench.attacher.failure = ContainerdUnavailable("nobody listens")
    with pytest.raises(RegistryUnavailable):
        await bench.host.create(manifest("a"))

    assert (await bench.host.delete("a")).kept == ()


async def test_a_delete_that_was_killed_is_finished(bench: Bench) -> None:
    before = await bench.host.create(manifest("a"))
    metadata = (bench.files.read("a") or {})["metadata"]
    assert isinstance(metadata, dict)
    bench.put(before, metadata=metadata | {"deletionTimestamp": "2024-05-01T12:00:00Z"})

    again = await bench.host.create(manifest("a"))
    assert again.metadata.uid != before.metadata.uid
    assert list(bench.store.documents) == [status_of(again).image_cache_id]


async def test_expiry_by_retention_and_24_hours_after_failure(bench: Bench) -> None:
    await bench.host.create(manifest("kept"))
    await bench.host.create(manifest("short", retentionDays=2))
    with pytest.raises(ImageNotFound):
        await bench.host.create(manifest("failed", "nginx:9"))

    assert (await bench.host.expire()).deleted == ()
    bench.clock.advance(hours=24)
    assert [deleted.cache.name for deleted in (await bench.host.expire()).deleted] == ["failed"]
    bench.clock.advance(hours=24)
    with bench.files.claimed("short"):
        assert (await bench.host.expire()).deleted == ()
    bench.attacher.failure = ContainerdUnavailable("nobody listens")
    assert [name for name, _error in (await bench.host.expire()).failed] == ["short"]
    bench.attacher.failure = None
    assert [deleted.cache.name for deleted in (await bench.host.expire()).deleted] == ["short"]
    assert [cache.name for cache in bench.host.list()] == ["kept"]


async def test_describe_says_who_shares(bench: Bench) -> None:
    await bench.host.create(manifest("a", "nginx:1.25", "redis:7"))
    await bench.host.create(manifest("b", "redis:7"))

    shared = [(layer.images, layer.shared_with) for layer in bench.host.describe("a").layers]

    assert shared == [
        (("nginx:1.25", "redis:7"), ("b",)),
        (("nginx:1.25",), ()),
        (("redis:7",), ("b",)),
    ]


async def test_an_object_before_there_is_a_bundle(bench: Bench) -> None:
    with pytest.raises(ImageNotFound):
        await bench.host.create(manifest("a", "nginx:9"))
    bench.put(manifest("raw"))

    assert bench.host.describe("a").bundle is None
    assert bench.host.describe("raw").layers == ()
    with pytest.raises(InvalidInput, match="raw is new"):
        await bench.host.attach("raw")
    assert await bench.host.detach("raw") == ()
    assert bench.status("raw").phase is Phase.PENDING
    assert status_of(await bench.host.create(manifest("raw"))).phase is Phase.READY


# secrets


async def test_a_secret_that_is_missing_is_a_failure_that_names_the_directory(bench: Bench) -> None:
    document = manifest("a", imagePullSecrets='["default:cred"]')
    with pytest.raises(NotFound) as caught:
        await bench.host.create(document)

    assert str(caught.value) == f"imagePullSecret default:cred is not in {bench.settings.secrets}"
    assert "kubectl get secret -n default cred" in caught.value.hint
    assert (bench.status().phase, bench.builder.requests) == (Phase.FAILED, [])
    bench.settings.secrets.mkdir()
    (bench.settings.secrets / "cred.yaml").write_text("kind: Secret\nmetadata: {name: cred}\ntype: Opaque\n")
    with pytest.raises(InvalidInput, match=r"cred\.yaml: imagePullSecret default:cred is no pull secret"):
        await bench.host.create(document)
    bench.secret("hunter2")
    await bench.host.create(document)
    assert [each.name for each in bench.builder.credentials[0]] == ["default:cred"]
    assert "hunter2" not in str(bench.files.read("a"))


# the disk


class FullDisk(ObjectFiles):
    """``free`` says whether there is room for a status."""

    free = True
    refused: ClassVar[list[str]] = []

    def write(self, name: str, item: Object) -> None:
        if not self.free:
            self.refused.append(name)
            raise NoSpace("no space left on device")
        super().write(name, item)


async def test_room_that_comes_back_is_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagecache.plain_host.settle._PAUSE", 0.01)
    monkeypatch.setattr("testkit.plain_host.ObjectFiles", FullDisk)
    monkeypatch.setattr(FullDisk, "refused", [])
    first = bench.builder.pause = asyncio.Event()
    task = asyncio.create_task(bench.host.create(manifest("a"), attach=False))
    await eventually(lambda: bench.status().progress == "25%" if bench.phase() else False)
    monkeypatch.setattr(FullDisk, "free", False)
    second = bench.builder.pause = asyncio.Event()
    first.set()
    await eventually(lambda: FullDisk.refused)
    monkeypatch.setattr(FullDisk, "free", True)
    second.set()

    assert status_of(await task).phase is Phase.READY
    assert bench.status() == status_of(await task)


async def test_a_full_disk_is_the_error_once_nothing_is_built(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unheard.append(context))
    monkeypatch.setattr("testkit.plain_host.ObjectFiles", FullDisk)
    bench.builder.pause = asyncio.Event()
    task = asyncio.create_task(bench.host.create(manifest("a"), attach=False))
    await eventually(lambda: bench.status().progress == "25%" if bench.phase() else False)
    monkeypatch.setattr(FullDisk, "free", False)
    bench.builder.pause.set()

    with pytest.raises(NoSpace):
        await task
    assert unheard == []


async def test_a_display_that_fails_interrupts_the_command_and_fails_no_build(bench: Bench) -> None:
    """As when stdout is closed: ``imagecache create | head -1``."""

    def show(event: ShownEvent) -> None:
        if isinstance(event, ImageResolved):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await bench.host.create(manifest("a"), show=show)
    assert bench.phase() is not Phase.FAILED
    assert phases.outcome(bench.status())[0] == "Interrupted"

    assert status_of(await bench.host.create(manifest("a"))).phase is Phase.READY


async def test_an_expired_cache_is_attached_like_any_other(bench: Bench) -> None:
    await bench.host.create(manifest("a", retentionDays=1), attach=False)
    bench.clock.advance(days=1)
    await bench.host.attach("a")

    assert bench.host.get("a").metadata.deletion_timestamp == ""
    assert bench.status().nodes == NodeCounts(desired=1, ready=1)


async def test_a_cache_that_is_half_deleted_is_not_attached(bench: Bench) -> None:
    before = await bench.host.create(manifest("a"), attach=False)
    bench.put(before, metadata=msgspec.to_builtins(before)["metadata"] | {"deletionTimestamp": "2024-05-01T12:00:00Z"})

    with pytest.raises(InvalidInput, match="half deleted"):
        await bench.host.attach("a")
    assert bench.attacher.attached == {}


async def test_what_was_created_anew_since_it_was_listed_does_not_expire(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        await bench.host.create(manifest(name, retentionDays=1))
    bench.clock.advance(days=1)
    host, collect = bench.host, bench.store.collect

    def slow() -> Collected:
        """While the first is collected, another process creates the second anew."""
        if bench.store.collections == 0:
            bench.store.collections += 1
            asyncio.run(bench.host.create(manifest("b", retentionDays=1)))
        return collect()

    monkeypatch.setattr(bench.store, "collect", slow)
    assert [deleted.cache.name for deleted in (await host.expire()).deleted] == ["a"]
    assert bench.phase("b") is Phase.READY


async def test_a_damaged_bundle_can_be_deleted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.host.create(manifest("a"))
    damaged = StoreCorrupt("its document is malformed", hint="delete the image cache and create it again")
    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "get", Mock(side_effect=damaged))
        patch.setattr(bench.store, "delete", lambda bundle_id: bench.store.documents.pop(bundle_id, None))
        assert (await bench.host.delete("a")).kept == ()

    assert bench.host.list() == []
    assert bench.store.documents == {}


async def test_the_id_that_is_shown_is_that_of_the_object(bench: Bench) -> None:
    """Also when the object was changed before it had a status: the command was killed at once."""
    bench.put(await bench.host.create(manifest("a"), attach=False), status=None)
    shown: list[ShownEvent] = []
    await bench.host.create(manifest("a", "redis:7"), attach=False, show=shown.append)

    assert [event.cache_id for event in shown if isinstance(event, Accepted)] == [bench.status().image_cache_id]
