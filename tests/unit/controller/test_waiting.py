"""The controller from end to end: what it waits for, who else writes, and what that costs."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from imagecache.api.types import Phase
from imagecache.api.yamltext import JSON
from imagecache.backoff import Backoff
from imagecache.controller.watches import Seen, Watches
from imagecache.errors import KubernetesDenied, KubernetesError, KubernetesUnavailable, RegistryUntrusted
from imagecache.kube import objects
from imagecache.kube.resources import EVENTS, IMAGE_CACHES, SECRETS, Resource

from .conftest import PAUSE, Bench, eventually, manifest, secret
from .test_reconciler import conditions, reasons


def looks(bench: Bench) -> int:
    """Gets of Secrets so far."""
    return sum((verb, kind) == ("get", SECRETS.qualified) for verb, kind, _name in bench.kube.calls)


async def test_a_missing_secret_is_waited_for(bench: Bench) -> None:
    bench.builder.guarded = frozenset({"nginx:1.25"})
    bench.start()
    await bench.create(manifest("a", imagePullSecrets=["default:cred"]))
    waiting = await bench.until(lambda status: bool(status.reason))

    assert waiting.phase is Phase.PENDING
    assert waiting.reason.startswith("PullSecretUnavailable: imagePullSecret default:cred does not exist; create it")
    assert conditions(waiting)["Ready"] == ("False", "PullSecretUnavailable")
    assert bench.builder.requests == []
    await bench.secret("cred", "good")
    status = await bench.phase(Phase.READY)
    assert status.reason == ""
    assert reasons(status.events) == ["PullSecretUnavailable", "Pulling", "Pulled", "Ready"]
    assert ("list", SECRETS.qualified, "") not in bench.kube.calls


async def test_one_look_is_for_all_that_wait(bench: Bench) -> None:
    names = [f"c{number}" for number in range(100)]
    bench.start()
    for name in names:
        await bench.create(manifest(name, imagePullSecrets=["default:cred"]))
    for name in names:
        await bench.until(lambda status: bool(status.reason), name)
    before, begun = looks(bench), asyncio.get_running_loop().time()
    await eventually(lambda: looks(bench) >= before + 10, lambda: looks(bench))

    assert asyncio.get_running_loop().time() - begun >= 9 * PAUSE.first, "one look in each pause, not a hundred"
    await bench.secret("cred", "good")
    for name in names:
        await bench.phase(Phase.READY, name)
    await eventually(lambda: not bench.controller.watches.watched, lambda: "watches")


async def test_a_wrong_secret_is_healed_by_a_right_one(bench: Bench) -> None:
    bench.builder.guarded = frozenset({"nginx:1.25"})
    bench.start()
    await bench.secret("cred", "bad")
    await bench.create(manifest("a", imagePullSecrets=["default:cred"]))
    failed = await bench.phase(Phase.FAILED)
    assert failed.reason.startswith("Unauthenticated: nginx:1.25: ")
    assert len(bench.builder.requests) == 1
    await bench.kill()

    bench.start()  # another controller does not ask the registry again with what it has refused
    await eventually(lambda: bench.controller.watches.watched, lambda: "watches")
    assert len(bench.builder.requests) == 1
    patch = {key: value for key, value in secret("cred", "good").items() if key == "data"}
    await bench.kube.patch(SECRETS, "cred", patch, namespace="default")
    status = await bench.phase(Phase.READY)
    assert status.image_cache_id == failed.image_cache_id
    assert len(bench.builder.requests) == 2


async def test_a_wrong_configuration_is_healed_by_a_right_one(bench: Bench) -> None:
    bench.builder.failure = RegistryUntrusted("its certificate is not trusted")
    bench.start()
    await bench.create(manifest())
    await bench.phase(Phase.FAILED)
    bench.builder.failure, bench.configuration = None, "another"

    await bench.phase(Phase.READY)


async def test_the_annotation_that_the_hint_names_is_enough(bench: Bench) -> None:
    bench.builder.failure = RegistryUntrusted("it speaks plain HTTP", hint="set plain-http-registry")
    bench.start()
    await bench.create(manifest())
    await bench.phase(Phase.FAILED)
    bench.builder.failure = None
    keys: JSON = {"k8s.aliyun.com/plain-http-registry": "docker.io"}
    await bench.kube.patch(IMAGE_CACHES, "a", {"metadata": {"annotations": keys}})

    status = await bench.phase(Phase.READY)
    assert status.observed_generation == 1, "annotations are of no generation"


async def test_a_secret_that_goes_just_before_the_build_is_waited_for(bench: Bench) -> None:
    bench.start()
    await bench.secret("cred", "good")
    await bench.create(manifest("a"))
    await bench.phase(Phase.READY)
    await bench.kube.delete(SECRETS, "cred", namespace="default")
    await bench.kube.patch(IMAGE_CACHES, "a", {"spec": {"images": ["redis:7"], "imagePullSecrets": ["default:cred"]}})
    status = await bench.until(lambda status: bool(status.reason))

    assert (status.phase, conditions(status)["Serving"]) == (Phase.UPDATING, ("True", "Updating"))
    await bench.secret("cred", "good")
    await bench.phase(Phase.READY)


async def test_no_secret_is_in_an_object_or_an_event(bench: Bench) -> None:
    bench.start()
    await bench.secret("cred", "good-hunter2")
    await bench.create(manifest("a", "nginx:9", imagePullSecrets=["default:cred"]))
    await bench.phase(Phase.FAILED)

    assert "hunter2" not in str((await bench.kube.list(IMAGE_CACHES)).items + (await bench.kube.list(EVENTS)).items)
    assert "hunter2" not in repr(bench.builder.credentials)


async def test_what_the_controller_may_not_read_is_said(bench: Bench) -> None:
    def deny(verb: str, resource: Resource, name: str) -> KubernetesError | None:
        return KubernetesDenied("secrets is forbidden") if (verb, resource) == ("get", SECRETS) and name else None

    bench.kube.failure = deny
    bench.start()
    await bench.create(manifest("a", imagePullSecrets=["default:cred"]))
    status = await bench.until(lambda status: bool(status.reason))

    assert "may not be read by the controller; allow its service account" in status.reason


# what somebody else writes


async def patch(bench: Bench, status: JSON) -> None:
    await bench.kube.patch(IMAGE_CACHES, "a", {"status": status}, subresource="status")


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Failed", "reason": "because"},
        {"phase": "Creating", "progress": "5%"},
        {"progress": "5%", "images": [], "size": 1},
        {"conditions": []},
        {"phase": None, "imageCacheId": None},
        {"observedGeneration": 7},
        {"expireDateTime": "2020-01-01T00:00:00Z"},
        {"startTime": "nonsense"},
    ],
)
async def test_a_status_that_is_set_back_is_written_again(bench: Bench, status: JSON) -> None:
    bench.start()
    await bench.create(manifest())
    before = await bench.phase(Phase.READY)
    await patch(bench, status)

    after = await bench.until(
        lambda now: (
            (now.phase, now.progress, now.size, now.reason, now.observed_generation, now.expire_date_time)
            == (Phase.READY, "100%", before.size, "", 1, "")
        )
    )
    assert after.image_cache_id == before.image_cache_id
    assert conditions(after) == conditions(before)
    assert len(bench.builder.requests) == 1


async def test_the_id_of_another_cache_deletes_nothing_of_it(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest("a"))
    await bench.create(manifest("b", "redis:7"))
    own, other = await bench.phase(Phase.READY, "a"), await bench.phase(Phase.READY, "b")
    await patch(bench, {"imageCacheId": other.image_cache_id})
    await bench.until(lambda status: status.image_cache_id == own.image_cache_id)
    await patch(bench, {"imageCacheId": other.image_cache_id, "attempt": {"imageCacheId": other.image_cache_id}})
    await bench.kube.delete(IMAGE_CACHES, "a")
    await bench.gone()

    await eventually(lambda: list(bench.store.documents) == [other.image_cache_id], lambda: bench.store.documents)
    assert (await bench.status("b")) == other
    assert len(bench.builder.requests) == 2


async def test_what_is_left_out_of_a_status_is_removed_from_it(bench: Bench) -> None:
    """A merge patch would keep it, also within the record of the attempt."""
    bench.builder.failure = RegistryUntrusted("its certificate is not trusted")
    bench.start()
    await bench.create(manifest())
    bench.configuration = "c1"
    await bench.phase(Phase.FAILED)
    bench.builder.failure, bench.configuration = None, "c2"
    await bench.phase(Phase.READY)

    item = await bench.kube.get(IMAGE_CACHES, "a")
    attempt = objects.at(item, "status", "attempt")
    assert isinstance(attempt, dict)
    assert set(attempt) == {"imageCacheId", "wanted"}
    assert objects.at(item, "status", "expireDateTime") is None


# looks


async def test_watches_look_once_for_all_and_less_and_less_often() -> None:
    state, woken, asked = {"a": "1", "b": "1", "c": "3"}, Counter[str](), Counter[str]()

    async def look(key: str) -> Seen:
        asked[key] += 1
        if state[key] == "down":
            raise KubernetesUnavailable("no answer")
        return Seen(state[key])

    def wake(name: str) -> None:
        woken[name] += 1

    watches = Watches(look, wake, Backoff(0.005, 0.02))
    task = asyncio.create_task(watches.run())
    for name in ("x", "y"):
        watches.watch(name, {"a": await watches.seen("a")}, ["a"])
    watches.watch("z", {"b": await watches.seen("b")}, ["b"])
    assert asked == {"a": 1, "b": 1}, "y was told what x has seen"
    watches.watch("later", {}, ["b", "c"])
    assert await watches.seen("c") == Seen("3"), "nobody has looked at it yet"
    watches.watch("later", {}, ())

    state["a"] = "down"
    await eventually(lambda: asked["a"] > 2, lambda: asked)
    assert woken == {}, "nothing can be said"
    state["a"] = "2"
    await eventually(lambda: woken == {"x": 1, "y": 1}, lambda: woken)
    watches.watch("x", {}, [])
    watches.watch("z", {}, ())
    state["a"] = "3"
    await eventually(lambda: woken == {"x": 1, "y": 2}, lambda: woken)
    assert watches.watched == {"a"}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
