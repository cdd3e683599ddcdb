"""Caches that pods had made: which goes for another one, how many, how fast, with which Secrets."""

from __future__ import annotations

import base64
import datetime as dt

import pytest

from imagecache.api import times
from imagecache.api.annotations import CPU_ARCH, PLAIN_HTTP
from imagecache.api.types import Phase
from imagecache.api.yamltext import JSON
from imagecache.controller.pods.autocaches import Made, victim
from imagecache.errors import KubernetesDenied, KubernetesError, KubernetesUnavailable, ObjectExists
from imagecache.kube import objects
from imagecache.kube.resources import IMAGE_CACHES, SECRETS, Resource
from imagecache.match.events import AUTO_CREATE_FAILED, AUTO_CREATED, MISSED
from imagecache.match.keys import AUTO_CREATED as LABEL
from imagecache.match.keys import CREATE, CREATED_FOR, EXTRA_STORAGE

from .bench import Bench, eventually

NOW = dt.datetime(2024, 5, 1, 12, 0, 0, tzinfo=dt.UTC)
MINE = {CREATE: "true"}


def made(name: str, *, idle: float, building: bool = False) -> Made:
    return Made(name, name, NOW - dt.timedelta(minutes=idle), building)


@pytest.mark.parametrize(
    ("caches", "expected"),
    [
        ([], None),
        ([made("a", idle=20), made("b", idle=30), made("c", idle=11)], "b"),
        ([made("b", idle=20), made("a", idle=20)], "a"),
        ([made("a", idle=9), made("b", idle=9.9)], None),
        ([made("a", idle=10)], "a"),
        ([made("a", idle=60, building=True), made("b", idle=20)], "b"),
        ([made("a", idle=60, building=True)], None),
    ],
)
def test_the_least_recently_used_one_goes(caches: list[Made], expected: str | None) -> None:
    found = victim(caches, NOW)

    assert (found.name if found else None) == expected


@pytest.mark.parametrize(
    ("phase", "building"),
    [(Phase.PENDING, True), (Phase.CREATING, True), (Phase.READY, False), (Phase.FAILED, False)],
)
async def test_what_of_a_cache_says_when_it_was_used(bench: Bench, phase: Phase, *, building: bool) -> None:
    await bench.cache(phase=phase)
    item = await bench.kube.get(IMAGE_CACHES, "app")
    created = bench.clock.now()
    assert Made.of(item) == Made("app", objects.uid(item), created, building)
    bench.clock.advance(hours=1)
    await bench.set_phase("app", phase, matched=bench.clock.now())

    assert Made.of(await bench.kube.get(IMAGE_CACHES, "app")).used == created + dt.timedelta(hours=1)
    assert not Made.of({"metadata": {"name": "a"}, "status": {"phase": "Ready", "lastMatchedTime": "?"}}).building


def image(number: int) -> JSON:
    return [{"name": "a", "image": f"registry.example/app:{number}"}]


async def names(bench: Bench) -> list[str]:
    return [objects.name(item) for item in (await bench.kube.list(IMAGE_CACHES)).items]


async def test_the_object_has_all_that_the_pod_needs(bench: Bench) -> None:
    bench.start()
    config = base64.b64encode(b'{"auths": {"x": {"auth": "eDp5"}}}').decode()
    secret: JSON = {".dockerconfigjson": config}
    await bench.kube.create(
        SECRETS,
        {"metadata": {"name": "s"}, "type": "kubernetes.io/dockerconfigjson", "data": secret},
        namespace="default",
    )
    keys: dict[str, JSON] = {CREATE: "true", PLAIN_HTTP: "registry.example", EXTRA_STORAGE: "10Gi"}
    pod = await bench.pod(
        node="node-1",
        annotations=keys,
        imagePullSecrets=[{"name": "s"}],
        nodeSelector={"kubernetes.io/arch": "arm64"},
        containers=image(1),
    )
    await bench.until_told(MISSED, AUTO_CREATED)

    (item,) = (await bench.kube.list(IMAGE_CACHES)).items
    assert item["spec"] == {
        "images": ["registry.example/app:1"],
        "imageCacheSize": 40,
        "imagePullSecrets": ["default:s"],
    }
    assert objects.texts(item, "metadata", "labels") == {LABEL: "true"}
    assert objects.texts(item, "metadata", "annotations") == {
        CREATED_FOR: f"default/{objects.uid(pod)}",
        PLAIN_HTTP: "registry.example",
        CPU_ARCH: "arm64",
    }


@pytest.mark.parametrize("denied", [False, True])
async def test_a_secret_that_cannot_be_read_is_told_and_nothing_is_made(bench: Bench, *, denied: bool) -> None:
    controller = bench.start()

    def failure(_verb: str, resource: Resource, _name: str) -> KubernetesError | None:
        return KubernetesDenied("secrets is forbidden") if denied and resource == SECRETS else None

    bench.kube.failure = failure
    await bench.pod(node="node-1", annotations=MINE, imagePullSecrets=[{"name": "s"}])
    await bench.until_told(MISSED, AUTO_CREATE_FAILED)

    text = "[eci.imagecache]Image cache auto create failed for pull secret default/s cannot be read"
    assert text in await bench.messages()
    assert await names(bench) == []
    assert controller.metric("auto_caches_total", outcome="refused") == 1


async def test_a_namespace_drives_out_its_own_alone(bench: Bench) -> None:
    bench.start(auto_caches=10, auto_caches_per_namespace=1)
    for name, namespace in (("mine", "default"), ("theirs", "other")):
        keys: dict[str, JSON] = {CREATED_FOR: f"{namespace}/1"}
        await bench.cache(name, f"registry.example/{name}:1", labels={LABEL: "true"}, annotations=keys)
    bench.clock.advance(hours=1)
    await bench.settled()
    await bench.pod("a", node="node-1", annotations=MINE, containers=image(1))
    await bench.until_told(MISSED, AUTO_CREATED, name="a")
    assert "mine" not in await names(bench)
    assert "theirs" in await names(bench)

    await bench.pod("b", node="node-1", annotations=MINE, containers=image(2))
    await bench.until_told(MISSED, AUTO_CREATE_FAILED, name="b")
    said = "the limit of 1 automatic image caches of namespace default is reached, and all are in use or new"
    assert any(said in message for message in await bench.messages("b"))


async def test_namespaces_take_turns(bench: Bench) -> None:
    """Whoever asks for many waits for the others: six are asked for at once, and the first is refused here."""
    left: list[KubernetesError] = [KubernetesUnavailable("until all have asked")]
    bench.kube.failure = lambda verb, resource, _name: (
        left.pop() if left and (verb, resource) == ("create", IMAGE_CACHES) else None
    )
    for number in range(20):
        await bench.pod(f"a-{number}", namespace="greedy", node="node-1", annotations=MINE, containers=image(number))
    await bench.pod("z", namespace="other", node="node-1", annotations=MINE, containers=image(99))
    controller = bench.start()
    await eventually(lambda: controller.metric("auto_caches_total", outcome="created") == 5, "five")

    assert "registry.example/app:99" in str((await bench.kube.list(IMAGE_CACHES)).items)


async def test_at_the_limit_the_least_recently_used_one_makes_room(bench: Bench) -> None:
    bench.start(auto_caches=2)
    auto = {LABEL: "true"}
    for name in ("old", "used"):
        await bench.cache(name, f"registry.example/{name}:1", labels=auto)
    await bench.cache("manual", "registry.example/manual:1")
    bench.clock.advance(hours=1)
    matched: dict[str, JSON] = {"lastMatchedTime": times.render(bench.clock.now() - dt.timedelta(minutes=20))}
    await bench.kube.patch(IMAGE_CACHES, "used", {"status": matched}, subresource="status")
    await bench.settled()
    await bench.pod("a", node="node-1", annotations=MINE, containers=image(1))
    await bench.until_told(MISSED, AUTO_CREATED, name="a")
    assert "old" not in await names(bench)
    assert {"used", "manual"} < set(await names(bench))
    await bench.pod("b", node="node-1", annotations=MINE, containers=image(2))
    await bench.until_told(MISSED, AUTO_CREATED, name="b")
    assert "used" not in await names(bench)
    # now both are new and being built
    await bench.pod("c", node="node-1", annotations=MINE, containers=image(3))
    await bench.until_told(MISSED, AUTO_CREATE_FAILED, name="c")

    assert "the limit of 2 automatic image caches" in " ".join(await bench.messages("c"))
    assert len(await names(bench)) == 3


async def test_with_a_limit_of_none_nothing_is_made(bench: Bench) -> None:
    bench.start(auto_caches=0)
    await bench.pod(node="node-1", annotations=MINE)
    await bench.until_told(MISSED, AUTO_CREATE_FAILED)

    assert await names(bench) == []


async def test_a_cluster_that_makes_caches_for_all_tells_nobody_that_it_could_not(bench: Bench) -> None:
    controller = bench.start(auto_create=True, auto_caches=0)
    await bench.pod(node="node-1")
    await eventually(lambda: controller.metric("auto_caches_total", outcome="refused") == 1, "it to be refused")

    assert await bench.told() == []


async def test_six_a_minute(bench: Bench) -> None:
    controller = bench.start()
    for number in range(8):
        await bench.pod(f"web-{number}", node="node-1", annotations=MINE, containers=image(number))
    await eventually(lambda: controller.metric("auto_caches_total", outcome="created") == 6, "six")
    await bench.settled()

    assert len(await names(bench)) == 6, "the others have a turn every ten seconds"


async def test_an_api_server_that_fails_is_asked_again(bench: Bench) -> None:
    controller = bench.start()
    left: list[KubernetesError] = [KubernetesUnavailable("busy"), ObjectExists("somebody was faster")]

    def failure(verb: str, resource: Resource, _name: str) -> KubernetesError | None:
        return left.pop(0) if left and (verb, resource) == ("create", IMAGE_CACHES) else None

    bench.kube.failure = failure
    await bench.pod(node="node-1", annotations=MINE)
    await eventually(lambda: controller.metric("auto_caches_total", outcome="exists") == 1, "the second answer")

    assert await bench.told() == [MISSED]
