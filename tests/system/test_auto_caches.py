"""Caches that a miss makes: one for all pods of the same images, within limits, with the pod's own credentials only."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from imagecache.api import times
from imagecache.api.yamltext import JSON
from imagecache.kube.objects import at, name, text, texts
from imagecache.match import events, keys
from testkit.cluster.controller import ControllerHost
from testkit.cluster.installed import Installed
from testkit.cluster.pods import PodSpec, workload
from testkit.cluster.seen_pods import SeenPods, is_held, is_running, matched
from testkit.peers.processes import wait_until

from .conftest import Site
from .test_pods import pull_secret

ASKS = {keys.AUTO: "true", keys.CREATE: "true"}
ELIMINATION = "imagecache.dev/elimination-strategy"
FAILED = "[eci.imagecache]Image cache auto create failed for {}"
PODS = 50
CacheObject = dict[str, JSON]


def caches(system: Installed) -> list[CacheObject]:
    """Those that pods had made."""
    path = f"/apis/eci.alibabacloud.com/v1/imagecaches?labelSelector={keys.AUTO_CREATED}%3Dtrue"
    found = at(system.read(path), "items")
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def wait_made(system: Installed, count: int = 1) -> list[CacheObject]:
    assert wait_until(lambda: len(caches(system)) >= count, seconds=30, every=0.1)
    return caches(system)


@contextmanager
def controller_with(system: Installed, **settings: str) -> Iterator[None]:
    """Inside, the controller has these settings: ``auto_caches="1"``."""
    before = dict(system.controller.settings)
    system.controller.settings.update({f"IMAGECACHE_{each.upper()}": value for each, value in settings.items()})
    try:
        restart(system)
        yield
    finally:
        system.controller.settings.clear()
        system.controller.settings.update(before)
        restart(system)


def restart(system: Installed) -> None:
    system.controller.restart()
    system.controller.wait_leading()


def test_a_miss_makes_a_cache_and_the_next_pod_hits(site: Site, system: Installed, pods: SeenPods) -> None:
    """With one image of two cached: that one is hit, and a cache of both is made all the same."""
    one, two = (site.registry.push(f"auto/{each}:1", site.image()) for each in ("one", "two"))
    site.create("one", one)
    system.wait_ready("one")
    asks = {**ASKS, **site.plain}

    pods.create(PodSpec("first", one, more_images=[two], annotations=asks))
    pods.wait_running("first")
    (made,) = wait_made(system)
    assert name(made).startswith("auto-create-for-")
    assert at(made, "spec", "images") == sorted([one, two])
    uid = text(pods.get("first"), "metadata", "uid")
    assert texts(made, "metadata", "annotations")[keys.CREATED_FOR] == f"default/{uid}"
    system.wait_ready(name(made))
    found = text(system.get(name(made)), "status", "imageCacheId")
    pods.create(PodSpec("second", one, more_images=[two], annotations=asks))
    pods.wait_running("second")

    assert pods.matched("first") == text(system.get("one"), "status", "imageCacheId")
    assert pods.wait_told("first", events.AUTO_CREATED) == f"[eci.imagecache]Image cache {found} is auto created"
    pods.wait_matched("second", found)
    pods.wait_told("second", events.HIT)
    assert len(caches(system)) == 1


def test_a_bar_that_is_not_met_makes_a_cache_and_a_pin_never_does(
    site: Site, system: Installed, pods: SeenPods
) -> None:
    cached, other = (site.registry.push(f"auto/bars-{each}:1", site.image()) for each in ("cached", "other"))
    site.create("one", cached)
    site.create("waits", cached, imagePullSecrets=["default:nothing"])
    system.wait_ready("one")
    asks = {**ASKS, **site.plain}
    pins = {"one": events.HIT, "waits": events.NOT_COMPLETE, "nothing": events.NOT_FOUND}
    pods.create(*(PodSpec(f"pins-{pin}", other, annotations={**asks, keys.PIN: pin}) for pin in pins))
    for pin, reason in pins.items():
        pods.wait_told(f"pins-{pin}", reason)

    bars = {"perfect": {keys.PERFECT: "true"}, "count": {keys.COUNT: "2"}}
    missing = {bar: site.registry.push(f"auto/bars-{bar}:1", site.image()) for bar in bars}
    for bar, said in bars.items():
        pods.create(PodSpec(bar, cached, more_images=[missing[bar]], annotations={**asks, **said}))
    made = wait_made(system, len(bars))
    for bar in bars:
        pods.wait_told(bar, events.AUTO_CREATED)
    pods.wait_running("pins-one", *bars)

    # wishes are granted in their order, so that one of a pin would have been granted before
    assert len(caches(system)) == len(bars)
    wanted = {str(sorted([cached, image])) for image in missing.values()}
    assert {str(at(each, "spec", "images")) for each in made} == wanted
    for bar in bars:
        assert pods.matched(bar) == ""
        assert {events.MISSED, events.HIT} & set(pods.reasons(bar)) == {events.MISSED}
    assert is_held(pods.get("pins-waits"))
    assert is_held(pods.get("pins-nothing"))


def test_nobody_who_does_not_ask_gets_one(site: Site, system: Installed, pods: SeenPods) -> None:
    reference = site.registry.push("auto/unasked:1", site.image())
    asks = {**ASKS, **site.plain}
    pods.create(
        PodSpec("silent", reference, annotations=site.plain),
        PodSpec("matches", reference, annotations={keys.AUTO: "true", **site.plain}),
        PodSpec("off", reference, annotations={**asks, keys.AUTO: "false"}),
        PodSpec("says-no", reference, annotations={**asks, keys.CREATE: "false"}),
        PodSpec("system", reference, annotations=asks, namespace="kube-system"),
    )
    pods.wait_running("silent", "matches", "off", "says-no")
    SeenPods(system, "kube-system").wait_running("system")
    pods.wait_told("matches", events.MISSED)

    assert caches(system) == []


@pytest.mark.timeout(300)
def test_one_cache_for_fifty_pods_and_two_controllers(site: Site, system: Installed, pods: SeenPods) -> None:
    reference = site.registry.push("auto/fifty:1", site.image())
    asks = {**ASKS, **site.plain}
    with ControllerHost(system.cluster, "second", system.settings) as second:
        system.cluster.apply(workload("Deployment", PodSpec("fifty", reference, annotations=asks), replicas=PODS))
        wait_made(system)
        system.controller.kill()  # in the middle: the other one looks at all pods again
        system.controller.start()
        assert wait_until(lambda: second.leads or system.controller.leads, seconds=60, every=0.2)

        def running() -> bool:
            return sum(map(is_running, pods.of("fifty"))) == PODS

        assert wait_until(running, seconds=180, every=0.5), len([pod for pod in pods.of("fifty") if is_running(pod)])
        (made,) = caches(system)
        system.wait_ready(name(made))
    system.controller.wait_leading()
    found = text(system.get(name(made)), "status", "imageCacheId")
    names = [name(pod) for pod in pods.of("fifty")]

    def told(reason: str) -> list[str]:
        return [each.pod for each in pods.told(*names) if each.reason == reason]

    # whoever started while nobody led was told nothing, and the controller may have died before it said what it made
    assert len(told(events.AUTO_CREATED)) <= 1
    assert told(events.MISSED)
    for reason in (events.MISSED, events.HIT):
        assert len(told(reason)) == len(set(told(reason))), "each once"
    second_wave = [f"later-{number}" for number in range(5)]
    pods.create(*(PodSpec(each, reference, annotations=asks) for each in second_wave))
    for each in second_wave:
        pods.wait_matched(each, found)
        pods.wait_told(each, events.HIT)
        assert {events.MISSED, events.AUTO_CREATED} & set(pods.reasons(each)) == set()
    assert {matched(pod) for pod in pods.of("fifty")} <= {"", found}
    assert len(caches(system)) == 1


def test_a_failed_build_is_told_once_and_not_tried_again(site: Site, system: Installed, pods: SeenPods) -> None:
    """The image is not what its own config says, so that kubelet cannot have it either."""
    made = site.image(1000, 2000)
    document = json.loads(made.blob(made.descriptor.digest).read_bytes())
    document["layers"][-1] = document["layers"][0]
    reference = site.registry.push_manifest("auto/wrong:1", made, json.dumps(document).encode())
    asks = {**ASKS, **site.plain}
    pods.create(PodSpec("first", reference, annotations=asks))

    message = pods.wait_told("first", events.AUTO_CREATE_FAILED, seconds=60)
    (failed,) = caches(system)
    assert message.startswith(FAILED.format("DigestMismatch"))
    assert system.phase(name(failed)) == "Failed"
    pods.create(PodSpec("second", reference, annotations=asks))
    pods.wait_told("second", events.MISSED)

    assert [name(each) for each in caches(system)] == [name(failed)]
    assert pods.reasons("first").count(events.AUTO_CREATE_FAILED) == 1
    assert {events.AUTO_CREATED, events.AUTO_CREATE_FAILED} & set(pods.reasons("second")) == set()
    assert at(caches(system)[0], "metadata", "uid") == at(failed, "metadata", "uid")


def test_a_private_image_by_the_secret_of_the_pod_s_own_namespace(site: Site, system: Installed) -> None:
    reference = site.guarded.push("auto/private:1", site.image())
    system.cluster.add_namespace("outside")
    try:
        for namespace in ("default", "outside"):
            system.cluster.apply(pull_secret(site.guarded.address, "allowed", namespace))
        spec = {"annotations": {**ASKS, **site.plain}, "pull_secrets": ["allowed"]}
        own, outside = SeenPods(system), SeenPods(system, "outside")
        outside.create(PodSpec("stranger", reference, namespace="outside", **spec))  # type: ignore[arg-type]
        cause = "pull secret outside/allowed cannot be read"
        assert outside.wait_told("stranger", events.AUTO_CREATE_FAILED) == FAILED.format(cause)
        assert caches(system) == []

        own.create(PodSpec("own", reference, **spec))  # type: ignore[arg-type]
        (made,) = wait_made(system)
        assert at(made, "spec", "imagePullSecrets") == ["default:allowed"]
        system.wait_ready(name(made))

        system.cluster.kubectl("delete", "secret", "allowed")
        other = site.guarded.push("auto/private:2", site.image())
        own.create(PodSpec("late", other, **spec))  # type: ignore[arg-type]
        cause = "pull secret default/allowed cannot be read"
        assert own.wait_told("late", events.AUTO_CREATE_FAILED) == FAILED.format(cause)
    finally:
        system.cluster.kubectl("delete", "namespace", "outside", "--timeout=60s")


def test_the_cluster_s_default_and_the_limit(site: Site, system: Installed, pods: SeenPods) -> None:
    one, two = (site.registry.push(f"auto/limit-{each}:1", site.image()) for each in ("one", "two"))
    with controller_with(system, pods_auto_create="true", auto_caches="1"):
        pods.create(PodSpec("first", one, annotations=site.plain))
        (made,) = wait_made(system)
        pods.create(PodSpec("second", two, annotations={**ASKS, **site.plain}))

        message = pods.wait_told("second", events.AUTO_CREATE_FAILED)

    assert message.startswith(FAILED.format("the limit of 1 automatic image caches is reached"))
    assert [name(each) for each in caches(system)] == [name(made)]


def test_the_least_recently_matched_goes_at_the_limit(site: Site, system: Installed) -> None:
    """Of those that are marked so; then nothing more is built until there is room."""
    references = {
        each: site.registry.push(f"auto/{each}:1", site.image()) for each in ("oldest", "older", "third", "fourth")
    }

    def create(each: str, **said: str) -> None:
        system.create(each, [references[each]], {**site.plain, **said})

    with controller_with(system, max_caches="2"):
        for number, each in enumerate(("oldest", "older")):
            create(each, **{ELIMINATION: "LRU"})
            system.wait_ready(each)
            system.unused_since(each, f"2024-01-0{number + 1}T00:00:00Z")
        create("third")
        system.wait_ready("third")
        assert (system.exists("oldest"), system.exists("older")) == (False, True)

        # whoever was used lately stays, and so does what is not marked
        annotate = ["annotate", "imagecache", "older", f"{ELIMINATION}-"]
        system.cluster.kubectl(*annotate)
        create("fourth")
        assert wait_until(lambda: "max_caches" in json.dumps(system.get("fourth")), seconds=30, every=0.2)
        assert system.phase("fourth") in {"", "Pending"}
        assert system.exists("older")
        system.delete("older")
        system.wait_ready("fourth")


def test_they_go_when_their_time_has_come(site: Site, system: Installed, pods: SeenPods) -> None:
    """Seven days unused, thirty after the last match; what has failed after a day, and then a pod has it made again."""
    asks = {**ASKS, **site.plain}
    images = {each: site.registry.push(f"auto/time-{each}:1", site.image()) for each in ("unused", "used", "kept")}
    images["failed"] = f"{site.registry.address}/auto/time-failed:1"
    pods.create(*(PodSpec(each, image, annotations=asks) for each, image in images.items()))
    made = {str(at(each, "spec", "images")): name(each) for each in wait_made(system, len(images))}
    unused, used, kept, failed = (made[str([image])] for image in images.values())
    for each in (unused, used, kept):
        system.wait_ready(each)
    uid = at(system.wait_phase(failed, "Failed"), "metadata", "uid")
    pods.wait_running("unused", "used", "kept")  # and so are matched no more
    system.ask("DELETE", "/api/v1/namespaces/default/pods/failed?gracePeriodSeconds=0")

    system.controller.stop()
    system.backdate(unused, ago(days=8))
    system.backdate(used, ago(days=40), lastMatchedTime=ago(days=31))
    system.backdate(kept, ago(days=40), lastMatchedTime=ago(days=29))
    system.backdate(failed, ago(hours=25), expireDateTime=ago(hours=1))
    system.controller.start()
    system.controller.wait_leading()

    assert wait_until(lambda: not any(map(system.exists, (unused, used, failed))), seconds=30, every=0.2)
    site.registry.push("auto/time-failed:1", site.image())
    pods.create(PodSpec("later", images["failed"], annotations=asks))
    pods.wait_told("later", events.AUTO_CREATED)
    assert at(system.wait_ready(failed), "metadata", "uid") != uid
    assert {name(each) for each in caches(system)} == {kept, failed}


def ago(**span: float) -> str:
    return times.render(dt.datetime.now(dt.UTC) - dt.timedelta(**span))
