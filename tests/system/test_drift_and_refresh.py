"""A tag that moves is seen, and its cache built anew while pods start; who waits and who goes when there is no room."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from imagecache.kube.objects import at, text
from testkit.cluster.installed import KIND, Installed
from testkit.cluster.pods import PodSpec, run_pods, wait_ready
from testkit.peers.processes import wait_until

from .conftest import Site

Tune = Callable[..., None]
_SUMS = ("sha256sum", "/srv/0", "/srv/1")
LRU = {"imagecache.dev/elimination-strategy": "LRU"}


@pytest.fixture
def tune(system: Installed) -> Iterator[Tune]:
    """Starts the controller with other settings; afterwards it has its own again."""
    controller = system.controller
    before = dict(controller.settings)

    def start(**settings: str) -> None:
        controller.settings = before | {f"IMAGECACHE_{key.upper()}": value for key, value in settings.items()}
        controller.restart()
        controller.wait_leading()

    yield start
    start()


def condition(system: Installed, name: str, kind: str) -> tuple[str, str, str]:
    """Status, reason and message; empty when it is not there."""
    conditions = at(system.get(name), "status", "conditions")
    for each in conditions if isinstance(conditions, list) else ():
        if text(each, "type") == kind:
            return text(each, "status"), text(each, "reason"), text(each, "message")
    return "", "", ""


def image_of(system: Installed, name: str) -> dict[str, object]:
    """The first of ``status.images``."""
    images = at(system.get(name), "status", "images")
    assert isinstance(images, list)
    assert isinstance(images[0], dict)
    return dict(images[0])


def annotate(system: Installed, name: str, key: str, value: str) -> None:
    system.cluster.kubectl("annotate", f"{KIND}/{name}", f"{key}={value}", "--overwrite")


def sums(system: Installed, pod: PodSpec) -> str:
    """What the pod's container has: a file of each of the image's own layers."""
    return system.cluster.kubectl("exec", pod.name, "--", *_SUMS)


@pytest.mark.timeout(300)
def test_a_moved_tag_is_seen_and_refreshed_while_pods_start(site: Site, system: Installed, tune: Tune) -> None:
    tune(tag_check_interval="2")
    name = "drift/app:latest"
    old, new = site.image(1000, 1000), site.image(1000, 1000)
    image = site.registry.push(name, old)
    site.create("drift", image)
    system.wait_ready("drift")
    first = PodSpec("drift-before", image, node=system.cluster.nodes[0].name)
    run_pods(system.cluster, first)
    known = [sums(system, first)]
    assert wait_until(lambda: condition(system, "drift", "TagDrifted")[0] == "False", seconds=30, every=0.2)

    site.registry.clear_requests()
    site.registry.push(name, new)
    assert wait_until(lambda: condition(system, "drift", "TagDrifted")[0] == "True", seconds=30, every=0.2)
    assert image in condition(system, "drift", "TagDrifted")[2]
    seen = image_of(system, "drift")
    assert (seen["digest"], seen["drifted"]) == (str(old.descriptor.digest), True)
    assert seen["currentDigest"] == str(new.descriptor.digest)
    asked = [each for each in site.registry.requests() if each.path.endswith("/drift/app/manifests/latest")]
    assert {each.method for each in asked} == {"HEAD"}
    assert system.phase("drift") == "Ready"

    annotate(system, "drift", "imagecache.dev/refresh", "1")
    pods: list[PodSpec] = []

    def refreshed() -> bool:
        """Another pod at each look, on one node after the other, without a pause."""
        node = system.cluster.nodes[len(pods) % len(system.cluster.nodes)]
        pods.append(PodSpec(f"drift-{len(pods)}", image, node=node.name))
        system.cluster.apply(pods[-1].document())
        found = image_of(system, "drift")["digest"] == str(new.descriptor.digest)
        return found and system.counts("drift")[:2] == (3, 3)

    assert wait_until(refreshed, seconds=120, every=0.0)
    last = [PodSpec(f"drift-after-{node.name}", image, node=node.name) for node in system.cluster.nodes]
    run_pods(system.cluster, *last)
    known.append(sums(system, last[0]))
    assert known[0] != known[1]
    assert len(pods) > 2, "pods have started meanwhile"
    assert {sums(system, pod) for pod in last} == {known[1]}
    for pod in pods:
        wait_ready(system.cluster, pod)
        assert sums(system, pod) in known, "old or new, and of one push"
    assert sums(system, first) == known[0]
    assert wait_until(lambda: condition(system, "drift", "TagDrifted")[0] == "False", seconds=30, every=0.2)


@pytest.mark.timeout(300)
def test_a_schedule_builds_anew_and_one_that_is_none_says_so(site: Site, system: Installed) -> None:
    image = site.registry.push("drift/scheduled:1", site.image())
    site.create("scheduled", image)
    before = text(system.wait_ready("scheduled"), "status", "imageCacheId")
    annotate(system, "scheduled", "imagecache.dev/refresh-schedule", "never")
    assert wait_until(lambda: condition(system, "scheduled", "Degraded")[1] == "InvalidSchedule", seconds=30, every=0.2)
    assert "is no schedule" in condition(system, "scheduled", "Degraded")[2]
    assert condition(system, "scheduled", "Ready")[0] == "True"

    annotate(system, "scheduled", "imagecache.dev/refresh-schedule", "* * * * *")

    def anew() -> bool:
        return text(system.get("scheduled"), "status", "imageCacheId") != before

    assert wait_until(anew, seconds=120, every=0.2)
    annotate(system, "scheduled", "imagecache.dev/refresh-schedule", "0 0 1 1 *")
    system.wait_ready("scheduled")
    assert condition(system, "scheduled", "Degraded")[1] == "AsExpected"


def test_the_least_recently_used_goes_for_a_new_one(site: Site, system: Installed, tune: Tune) -> None:
    tune(max_caches="3")
    images = [site.registry.push(f"room/app:{number}", site.image()) for number in range(4)]
    for number, name in enumerate(("one", "two", "kept")):
        system.create(name, [images[number]], {**site.plain, **(LRU if name != "kept" else {})})
    for name in ("one", "two", "kept"):
        system.wait_ready(name)
    system.unused_since("one", "2021-01-01T00:00:00Z")
    system.unused_since("two", "2020-01-01T00:00:00Z")
    site.create("new", images[3])

    system.wait_ready("new")
    assert wait_until(lambda: not system.exists("two"), seconds=30, every=0.2)
    assert all(map(system.exists, ("one", "kept", "new")))
    assert "Evicted" in system.cluster.kubectl("get", "events", "--field-selector=involvedObject.name=two")
    assert wait_until(
        lambda: all("two" not in system.states(node) for node in system.cluster.nodes), seconds=30, every=0.2
    )


def test_without_room_a_cache_waits_and_begins_when_there_is_some(site: Site, system: Installed, tune: Tune) -> None:
    tune(max_caches="1")
    images = [site.registry.push(f"waiting/app:{number}", site.image()) for number in range(2)]
    site.create("first", images[0])
    system.wait_ready("first")
    site.create("second", images[1])

    def refused() -> bool:
        return text(system.get("second"), "status", "reason").startswith("QuotaExceeded: ")

    assert wait_until(refused, seconds=30, every=0.2)
    assert system.phase("second") == "Pending"
    assert "max_caches" in text(system.get("second"), "status", "reason")
    system.controller.kill()
    system.controller.start()
    system.controller.wait_leading()
    assert system.phase("first") == "Ready"
    assert system.phase("second") == "Pending"

    system.delete("first")
    system.wait_ready("second")
