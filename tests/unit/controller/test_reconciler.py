"""The controller from end to end, over a Kubernetes API in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from imagecache.api.columns import row
from imagecache.api.ids import is_cache_id
from imagecache.api.nodes import FINALIZER, NODE_SELECTOR
from imagecache.api.types import Event, NodeCounts, Phase, Status
from imagecache.api.yamltext import JSON
from imagecache.errors import (
    ImageCacheError,
    KubernetesDenied,
    KubernetesError,
    KubernetesUnavailable,
    ObjectConflict,
    RegistryUnavailable,
    StoreError,
)
from imagecache.kube.resources import EVENTS, IMAGE_CACHES, Resource
from testkit.builder import MemoryStore

from .conftest import Bench, eventually, manifest


def conditions(status: Status) -> dict[str, tuple[str, str]]:
    return {entry.type: (entry.status, entry.reason) for entry in status.conditions}


def reasons(events: tuple[Event, ...]) -> list[str]:
    return [event.reason for event in events]


async def test_the_end_of_a_build_is_not_held_back_as_its_progress_is(bench: Bench) -> None:
    bench.interval, bench.builder.pause = 1000.0, asyncio.Event()
    bench.start()
    await bench.create(manifest("a", "nginx:1.25"))
    await bench.phase(Phase.PENDING)
    await asyncio.sleep(0.1)  # its own write has come back: nothing but the build's end makes the controller look
    bench.builder.pause.set()

    assert (await bench.phase(Phase.READY)).progress == "100%"


async def test_a_cache_becomes_ready_and_tells_how(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest("a", "nginx:1.25", "redis:7", retentionDays=7))
    status = await bench.phase(Phase.READY)

    cache = await bench.get()
    assert cache.metadata.finalizers == (FINALIZER,)
    assert cache.metadata.annotations == {}
    assert row(cache, bench.clock.now(), wide=True)[1:] == (
        "0s",
        status.image_cache_id,
        "Ready",
        "100%",
        "0/0",
        "5.9KiB",
        "",
    )
    assert is_cache_id(status.image_cache_id)
    assert (status.start_time, status.expire_date_time) == ("2024-05-01T12:00:00Z", "2024-05-08T12:00:00Z")
    assert [image.image for image in status.images] == ["nginx:1.25", "redis:7"]
    assert conditions(status) == {
        "Ready": ("True", "Built"),
        "Building": ("False", "Built"),
        "Reconciling": ("False", "Built"),
        "Stalled": ("False", "Built"),
        "Serving": ("True", "Built"),
        "Degraded": ("False", "AsExpected"),
    }
    assert {entry.observed_generation for entry in status.conditions} == {1}
    assert reasons(status.events) == ["Pulling", "Pulling", "Pulled", "Pulled", "Ready"]

    async def told() -> bool:
        return (await bench.events())[-1:] == [("Ready", "a")]

    await eventually(told, lambda: "the event Ready")
    assert list(bench.store.documents) == [status.image_cache_id]


async def test_progress_is_shown_while_it_is_built(bench: Bench) -> None:
    bench.builder.pause = asyncio.Event()
    bench.start()
    await bench.create(manifest())
    status = await bench.until(lambda status: status.progress == "25%")

    assert status.phase is Phase.CREATING
    assert conditions(status)["Building"] == ("True", "Started")
    bench.builder.pause.set()
    await bench.phase(Phase.READY)


async def test_builds_are_bounded(bench: Bench) -> None:
    bench.builder.pause = asyncio.Event()
    bench.start()
    for number in range(5):
        await bench.create(manifest(f"c{number}"))
    await eventually(lambda: bench.builder.running == 2 and bench.controller.builds.running == 5, lambda: bench.builder)

    bench.builder.pause.set()
    for number in range(5):
        await bench.phase(Phase.READY, f"c{number}")
    assert bench.builder.most == 2


async def test_a_failure_says_what_to_do_and_goes_after_a_day(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest("a", "nginx:9", retentionDays=7))
    status = await bench.phase(Phase.FAILED)

    assert status.reason == "ImageNotFound: nginx:9: the registry has no such tag; check the tag"
    assert status.expire_date_time == "2024-05-02T12:00:00Z"
    assert conditions(status)["Ready"] == ("False", "ImageNotFound")
    assert [(event.type, event.reason, event.name) for event in status.events] == [
        ("Warning", "ImageNotFound", "nginx:9")
    ]
    bench.clock.advance(hours=23)
    bench.controller.queue.add("a")
    await bench.phase(Phase.FAILED)
    bench.clock.advance(hours=1)
    bench.controller.queue.add("a")
    await bench.gone()
    assert ("Expired", "a") in await bench.events()


async def test_an_expired_cache_goes_with_its_bundle(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest("a", retentionDays=1))
    await bench.phase(Phase.READY)
    bench.clock.advance(days=1)
    bench.controller.queue.add("a")

    await bench.gone()
    assert bench.store.documents == {}


async def test_a_failed_cache_is_built_again_when_its_spec_changes(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest("a", "nginx:9"))
    failed = await bench.phase(Phase.FAILED)
    await bench.kube.patch(IMAGE_CACHES, "a", {"spec": {"images": ["nginx:1.25"]}})
    status = await bench.phase(Phase.READY)

    assert status.image_cache_id == failed.image_cache_id
    assert (status.reason, status.expire_date_time) == ("", "")
    assert reasons(status.events) == ["ImageNotFound", "Retrying", "Pulling", "Pulled", "Ready"]
    assert {entry.observed_generation for entry in status.conditions} == {2}


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (manifest("a", "NGINX:bad:name"), "InvalidManifest: spec.images[0]: not an image reference"),
        (manifest("a", imagePullSecrets=["nonsense"]), "InvalidManifest: spec.imagePullSecrets[0]"),
        (manifest("a", retentionDays=-4), "InvalidManifest: spec.retentionDays"),
        (manifest("a", *(f"i{n}" for n in range(21))), "InvalidManifest: spec.images: 21 images"),
        (
            manifest("a", annotations={NODE_SELECTOR: "a b"}),
            "InvalidManifest: metadata.annotations[imagecache.dev/node",
        ),
        (manifest("a", imageCacheSize="25"), "InvalidManifest: spec.imageCacheSize"),
    ],
)
async def test_what_cannot_be_is_a_failure_with_a_reason(bench: Bench, item: dict[str, object], reason: str) -> None:
    bench.start()
    await bench.create(item)  # type: ignore[arg-type]  # parametrize knows no JSON
    status = await bench.phase(Phase.FAILED)

    assert status.reason.startswith(reason)
    assert bench.builder.requests == []


async def test_a_corrected_annotation_is_enough(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest("a", annotations={NODE_SELECTOR: "a b"}))
    await bench.phase(Phase.FAILED)
    await bench.kube.patch(IMAGE_CACHES, "a", {"metadata": {"annotations": {NODE_SELECTOR: "a=b"}}})

    await bench.phase(Phase.READY)


async def test_an_edited_cache_is_built_in_place_and_serves_meanwhile(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest())
    before = await bench.phase(Phase.READY)
    bench.builder.pause = asyncio.Event()
    await bench.kube.patch(IMAGE_CACHES, "a", {"spec": {"images": ["redis:7"]}})
    updating = await bench.until(lambda status: status.progress == "25%")

    assert (updating.phase, updating.image_cache_id) == (Phase.UPDATING, before.image_cache_id)
    assert conditions(updating)["Ready"] == ("False", "Updating")
    assert conditions(updating)["Serving"] == ("True", "Updating")
    assert before.image_cache_id in bench.store.documents
    bench.builder.pause.set()
    after = await bench.phase(Phase.READY)
    assert after.image_cache_id != before.image_cache_id
    assert [image.image for image in after.images] == ["redis:7"]
    await eventually(lambda: list(bench.store.documents) == [after.image_cache_id], lambda: bench.store.documents)


async def test_a_failed_update_keeps_the_old_content(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest())
    before = await bench.phase(Phase.READY)
    await bench.kube.patch(IMAGE_CACHES, "a", {"spec": {"images": ["nginx:9"]}})
    status = await bench.phase(Phase.UPDATE_FAILED)

    assert status.image_cache_id == before.image_cache_id
    assert status.expire_date_time == ""
    assert conditions(status)["Degraded"] == ("True", "UpdateFailed")
    await bench.kube.patch(IMAGE_CACHES, "a", {"spec": {"images": ["nginx:1.25"]}})
    status = await bench.phase(Phase.READY)
    assert (status.image_cache_id, status.reason) == (before.image_cache_id, "")
    assert len(bench.builder.requests) == 2


async def test_another_retention_builds_nothing(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest())
    await bench.phase(Phase.READY)
    await bench.kube.patch(IMAGE_CACHES, "a", {"spec": {"retentionDays": 2}})
    status = await bench.until(lambda status: bool(status.expire_date_time))

    assert (status.phase, status.expire_date_time) == (Phase.READY, "2024-05-03T12:00:00Z")
    assert {entry.observed_generation for entry in status.conditions} == {2}
    assert len(bench.builder.requests) == 1


async def test_a_spec_edited_while_it_is_built_is_what_is_built(bench: Bench) -> None:
    bench.builder.pause = asyncio.Event()
    bench.start()
    await bench.create(manifest())
    first = await bench.until(lambda status: status.progress == "25%")
    await bench.kube.patch(IMAGE_CACHES, "a", {"spec": {"images": ["redis:7"]}})
    await eventually(lambda: len(bench.builder.requests) == 2, lambda: bench.builder.requests)
    bench.builder.pause.set()
    status = await bench.phase(Phase.READY)

    assert status.image_cache_id == first.image_cache_id
    assert [image.image for image in status.images] == ["redis:7"]


async def test_a_controller_killed_mid_build_is_followed_by_one_with_the_same_id(bench: Bench) -> None:
    bench.builder.pause = asyncio.Event()
    bench.start()
    await bench.create(manifest())
    before = await bench.until(lambda status: status.progress == "25%")
    await bench.kill()
    assert bench.builder.running == 0

    bench.builder.pause = asyncio.Event()
    bench.start()
    await eventually(lambda: len(bench.builder.requests) == 2, lambda: bench.builder.requests)
    now = await bench.status()
    assert (now.phase, now.progress, now.start_time) == (Phase.CREATING, "25%", before.start_time)
    bench.builder.pause.set()
    after = await bench.phase(Phase.READY)
    assert after.image_cache_id == before.image_cache_id
    assert {request.bundle_id for request in bench.builder.requests} == {before.image_cache_id}


async def test_a_bundle_that_is_there_is_not_built_again(bench: Bench) -> None:
    """Killed between the commit and the status."""
    bench.start()
    await bench.create(manifest())
    status = await bench.phase(Phase.READY)
    await bench.kill()
    creating = {"status": {"phase": "Creating", "progress": "99%"}}
    await bench.kube.patch(IMAGE_CACHES, "a", creating, subresource="status")  # type: ignore[arg-type]  # plain JSON
    bench.start()

    assert (await bench.phase(Phase.READY)).image_cache_id == status.image_cache_id
    assert len(bench.builder.requests) == 1


async def test_a_lost_bundle_is_built_again_under_the_same_id(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest())
    before = await bench.phase(Phase.READY)
    bench.store.documents.clear()
    bench.controller.queue.add("a")
    await eventually(lambda: len(bench.builder.requests) == 2, lambda: bench.builder.requests)

    after = await bench.phase(Phase.READY)
    assert after.image_cache_id == before.image_cache_id
    assert "Updating" in reasons(after.events)


async def test_delete_takes_the_bundle_along(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest())
    await bench.phase(Phase.READY)
    await bench.kube.delete(IMAGE_CACHES, "a")

    await bench.gone()
    assert bench.store.documents == {}
    await eventually(lambda: bench.store.collections > 0, lambda: bench.store)


async def test_delete_stops_the_build(bench: Bench) -> None:
    bench.builder.pause = asyncio.Event()
    bench.start()
    await bench.create(manifest())
    await bench.until(lambda status: status.progress == "25%")
    await bench.kube.delete(IMAGE_CACHES, "a")

    await bench.gone()
    assert bench.builder.running == 0


async def test_a_store_that_is_down_does_not_keep_an_object(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagecache.controller.reconciler.SOON", 0.01)
    monkeypatch.setattr("imagecache.controller.reconciler._COLLECT_PAUSE", 0.01)
    bench.start()
    await bench.create(manifest())
    await bench.phase(Phase.READY)
    bench.store.failure = StoreError("the disk is gone")
    await bench.kube.delete(IMAGE_CACHES, "a")

    await bench.gone()
    assert len(bench.store.documents) == 1
    bench.store.failure = None
    await eventually(lambda: bench.store.documents == {}, lambda: bench.store.documents)


async def test_a_store_that_is_down_is_said_and_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagecache.controller.decide.SOON", 0.01)
    bench.start()
    await bench.create(manifest())
    await bench.phase(Phase.READY)
    bench.store.failure = StoreError("the disk is gone")
    bench.controller.queue.add("a")
    status = await bench.until(lambda status: conditions(status)["Degraded"] == ("True", "StoreError"))

    assert status.phase is Phase.READY
    bench.store.failure = None
    await bench.until(lambda status: conditions(status)["Degraded"] == ("False", "AsExpected"))
    assert len(bench.builder.requests) == 1


async def test_other_finalizers_stay(bench: Bench) -> None:
    bench.start()
    item = manifest()
    item["metadata"] = {"name": "a", "finalizers": ["example.com/theirs"]}
    await bench.create(item)
    await bench.phase(Phase.READY)
    assert (await bench.get()).metadata.finalizers == ("example.com/theirs", FINALIZER)
    await bench.kube.delete(IMAGE_CACHES, "a")

    async def left() -> bool:
        return (await bench.get()).metadata.finalizers == ("example.com/theirs",)

    await eventually(left, lambda: "finalizers")


async def test_the_object_carries_counts_of_nodes(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest("a", annotations={NODE_SELECTOR: "pool=gpu"}))
    name = (await bench.phase(Phase.READY)).image_cache_id
    for node, pool in (("one", "gpu"), ("two", "gpu"), ("three", "cpu")):
        await bench.node(node, labels={"pool": pool})
    await bench.until(lambda status: status.nodes == NodeCounts(desired=2))
    await bench.report("one", {"name": "a", "id": name, "state": "Ready"})
    await bench.report("two", {"name": "a", "id": name, "state": "Failed", "reason": "NoSpace"})
    status = await bench.until(lambda status: status.nodes == NodeCounts(desired=2, ready=1, failed=1))

    assert status.display is not None
    assert status.display.nodes == "1/2"
    assert conditions(status)["Degraded"] == ("True", "NodesFailed")
    await bench.report("two", {"name": "a", "id": name, "state": "Ready"})
    status = await bench.until(lambda status: status.nodes == NodeCounts(desired=2, ready=2))
    assert conditions(status)["Degraded"] == ("False", "AsExpected")
    assert status.events[-1].message == "Usable on 2 nodes"
    await bench.report("three", {"name": "b", "id": "imc-x", "state": "Ready"})


async def test_a_name_that_another_cache_owns_on_a_node_is_a_condition(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest("a"))
    name = (await bench.phase(Phase.READY)).image_cache_id
    await bench.node("one")

    words: JSON = {"name": "a", "id": name, "state": "Ready", "reason": "NameTaken", "message": "nginx:1.25 is of b"}
    await bench.report("one", words)
    status = await bench.until(lambda status: conditions(status).get("NameTaken", ("", ""))[0] == "True")
    assert conditions(status)["Ready"] == ("True", "Built")
    assert next(each.message for each in status.conditions if each.type == "NameTaken") == "nginx:1.25 is of b (on one)"

    await bench.report("one", {"name": "a", "id": name, "state": "Ready"})
    await bench.until(lambda status: conditions(status)["NameTaken"][0] == "False")


async def test_an_object_of_the_same_name_is_another_one(bench: Bench) -> None:
    bench.builder.pause = asyncio.Event()
    bench.start()
    await bench.create(manifest())
    first = await bench.until(lambda status: status.progress == "25%")
    await bench.kube.delete(IMAGE_CACHES, "a")
    await bench.gone()
    bench.builder.pause.set()
    await bench.create(manifest())

    assert (await bench.phase(Phase.READY)).image_cache_id != first.image_cache_id


@pytest.mark.parametrize("error", [KubernetesUnavailable("down"), ObjectConflict("changed")])
async def test_an_api_server_that_fails_is_asked_again(bench: Bench, error: KubernetesError) -> None:
    left = 3

    def fail(verb: str, resource: Resource, name: str) -> KubernetesError | None:
        nonlocal left
        if verb == "patch" and resource == IMAGE_CACHES and name and left:
            left -= 1
            return error
        return None

    bench.kube.failure = fail
    bench.start()
    await bench.create(manifest())

    await bench.phase(Phase.READY)
    assert left == 0


async def test_events_that_cannot_be_posted_are_no_failure(bench: Bench) -> None:
    def fail(verb: str, resource: Resource, name: str) -> KubernetesError | None:
        return KubernetesDenied("no") if (verb, resource) == ("create", EVENTS) and name else None

    bench.kube.failure = fail
    bench.start()
    await bench.create(manifest())
    await bench.phase(Phase.READY)


@pytest.mark.parametrize("error", [RegistryUnavailable("no answer"), RuntimeError("a bug")])
async def test_a_build_that_breaks_is_tried_again(bench: Bench, error: Exception) -> None:
    bench.builder.failure = error  # type: ignore[assignment]  # also what no builder should raise
    bench.start()
    await bench.create(manifest())
    status = await bench.until(lambda status: bool(status.reason))

    kind = error.reason if isinstance(error, ImageCacheError) else "InternalError"
    assert (status.phase, status.expire_date_time) == (Phase.PENDING, "")
    assert status.reason.startswith(f"{kind}: ")
    bench.builder.failure = None
    bench.clock.advance(seconds=5)
    bench.controller.queue.add("a")
    status = await bench.phase(Phase.READY)
    assert (status.reason, len(bench.builder.requests)) == ("", 2)


async def test_our_own_mistakes_end_nothing_else(bench: Bench) -> None:
    class Mistaken(MemoryStore):
        def ids(self, owner: str) -> Collection[str]:
            if mistaken:
                mistaken.pop()
                raise RuntimeError("a bug")
            return super().ids(owner)

    mistaken = [True]
    bench.store = bench.builder.store = Mistaken()
    bench.start()
    await bench.create(manifest("a"))
    await eventually(lambda: not mistaken, lambda: mistaken)
    await bench.create(manifest("b"))

    await bench.phase(Phase.READY, "b")
