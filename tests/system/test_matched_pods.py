"""Pods that pin nothing: which cache they are told to have hit, and when; they start at once in any case."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from imagecache.api.annotations import CPU_ARCH
from imagecache.api.nodes import NODE_SELECTOR
from imagecache.kube.objects import at, text
from imagecache.match import events, keys, selectors
from testkit.cluster.installed import Installed
from testkit.cluster.pods import PodSpec
from testkit.cluster.seen_pods import Pod, SeenPods, matched
from testkit.images import busybox_image, tar_of
from testkit.oci_layout import Image
from testkit.peers.processes import wait_until

from .conftest import Site
from .test_architectures import ELSEWHERE, for_both

ON, OFF = {keys.AUTO: "true"}, {keys.AUTO: "false"}
REFRESH = "imagecache.dev/refresh"
MOVING = {"app": "moving"}
_MOST = 60
"""Rounds of two pods while a cache is updated, at most."""


def cache_id(system: Installed, name: str) -> str:
    return text(system.get(name), "status", "imageCacheId")


@dataclass(frozen=True, slots=True)
class Row:
    """A pod, and what becomes of it."""

    images: Sequence[str]
    """Letters of those below."""
    says: Mapping[str, str]
    hits: str = ""
    """Name of the cache; empty: none."""
    told: Sequence[str] = ()
    """Reasons of our events."""


COPIED = {keys.MATCHED: "imc-aaaaaaaaaaaaaaaaaaaa"}
"""From another pod."""
HIT, MISSED = (events.HIT,), (events.MISSED,)
OURS = {*HIT, *MISSED, events.NOT_FOUND, events.NOT_COMPLETE, events.AUTO_CREATED, events.AUTO_CREATE_FAILED}
ROWS = {
    "exact": Row("a", ON, "one", HIT),
    "old-key": Row("a", {keys.AUTO_OLD: "true"}, "one", HIT),
    "says-nothing": Row("a", {}),  # whoever asks nothing costs the API server nothing
    "digest": Row("d", ON, "one", HIT),
    "copied": Row("a", {**ON, **COPIED}, "one", HIT),
    "copied-alone": Row("a", COPIED, "one"),
    "copied-and-missed": Row("n", COPIED),
    "not-a-flag": Row("a", {keys.AUTO: "yes"}, "one", HIT),
    "part": Row("an", ON, "one", HIT),
    "both": Row("ab", {keys.PERFECT: "true"}, "one", HIT),  # each has one of two: the smaller one is told
    "relative": Row("r", ON, "one", HIT),
    "nothing": Row("n", ON, "", MISSED),
    "nothing-said": Row("n", {}),
    "perfect": Row("an", {keys.PERFECT: "true"}, "", MISSED),
    "count": Row("an", {keys.COUNT: "1"}, "one", HIT),
    "count-missed": Row("an", {keys.COUNT: "2"}, "", MISSED),
    "off": Row("a", OFF),
    "off-by-the-old-key": Row("a", {keys.AUTO_OLD: "false"}),
    "new-key-wins": Row("a", {**OFF, keys.AUTO_OLD: "true"}),
}
"""Images: ``a`` is in the cache ``one``, ``d`` is its digest, ``r`` another tag, ``b`` is in ``two``, ``n`` in none."""


def test_outcomes(site: Site, system: Installed, pods: SeenPods) -> None:
    made = site.image(1000)
    a, b = site.registry.push("matched/one:1", made), site.registry.push("matched/two:1", site.image(500_000))
    digest = f"{a.rpartition(':')[0]}@{made.descriptor.digest}"
    r, n = (site.registry.push(f"matched/{name}", site.image()) for name in ("one:2", "none:1"))
    images = {"a": a, "b": b, "d": digest, "r": r, "n": n}
    for name, reference in (("one", a), ("two", b)):
        site.create(name, reference)
    for name in ("one", "two"):
        system.wait_ready(name)
    specs = []
    for name, row in ROWS.items():
        first, *more = (images[letter] for letter in row.images)
        specs.append(PodSpec(name, first, more_images=more, annotations=row.says))

    pods.create(*specs)
    pods.wait_running(*ROWS)

    ids = {"": "", "one": cache_id(system, "one"), "two": cache_id(system, "two")}
    for name, row in ROWS.items():
        if row.hits:
            pods.wait_matched(name, ids[row.hits])
        pods.wait(name, "without what was copied", lambda name=name: pods.matched(name) != COPIED[keys.MATCHED])  # type: ignore[misc]
        for reason in row.told:
            pods.wait_told(name, reason)
    for name, row in ROWS.items():
        assert pods.matched(name) == ids[row.hits], name
        assert [reason for reason in pods.reasons(name) if reason in OURS] == list(row.told), name
        assert pods.gates(name) == []


def test_a_cache_that_is_on_another_node(site: Site, system: Installed, pods: SeenPods) -> None:
    reference = site.registry.push("matched/selected:1", site.image())
    without, has = system.cluster.nodes[:2]
    system.create("selected", [reference], {**site.plain, NODE_SELECTOR: f"kubernetes.io/hostname={has.name}"})
    system.wait_phase("selected", "Ready")
    system.wait_nodes("selected", 1)

    pods.create(*(PodSpec(f"on-{node.name}", reference, node=node.name, annotations=ON) for node in (without, has)))
    pods.wait_running(f"on-{without.name}", f"on-{has.name}")

    pods.wait_matched(f"on-{has.name}", cache_id(system, "selected"))
    pods.wait_told(f"on-{without.name}", events.MISSED)
    assert pods.matched(f"on-{without.name}") == ""
    assert events.HIT not in pods.reasons(f"on-{without.name}")


def test_a_cache_of_another_architecture(site: Site, system: Installed, pods: SeenPods) -> None:
    """Two caches of one image, one for each architecture: the pod has hit its own."""
    reference = site.registry.push("matched/both:1", for_both(site))
    system.create("elsewhere", [reference], {**site.plain, CPU_ARCH: ELSEWHERE})
    system.wait_phase("elsewhere", "Ready")
    pods.create(PodSpec("early", reference, annotations=ON))
    pods.wait_told("early", events.MISSED)
    assert pods.matched("early") == ""

    site.create("here", reference)
    system.wait_ready("here")
    pods.create(PodSpec("later", reference, annotations=ON))
    pods.wait_matched("later", cache_id(system, "here"))


# defaults

NAMESPACE = "defaults"


@pytest.fixture
def profile(system: Installed) -> Iterator[None]:
    """Whatever a test makes is gone afterwards."""
    system.cluster.add_namespace(NAMESPACE)
    yield
    system.cluster.kubectl(
        "delete", "configmap", selectors.CONFIG_MAP, f"--namespace={selectors.NAMESPACE}", "--ignore-not-found"
    )
    system.cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=60s")


def say_in_profile(system: Installed, text_of_selectors: str) -> None:
    metadata = {"name": selectors.CONFIG_MAP, "namespace": selectors.NAMESPACE}
    data = {selectors.KEY: text_of_selectors}
    system.cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def rule(name: str, said: Mapping[str, str], **labels: str) -> dict[str, object]:
    return {"name": name, "objectSelector": {"matchLabels": labels}, "effect": {"annotations": dict(said)}}


@pytest.mark.usefixtures("profile")
def test_who_says_it_nearest_counts(site: Site, system: Installed) -> None:
    """Pod, Namespace, the first selector, the cluster."""
    reference = site.registry.push("matched/defaults:1", site.image())
    site.create("defaults", reference)
    system.wait_ready("defaults")
    found, pods, numbers = cache_id(system, "defaults"), SeenPods(system, NAMESPACE), itertools.count()
    asked, on, off = {"tier": "web"}, rule("on", ON, tier="web"), rule("off", OFF, tier="web")

    def hit(said: Mapping[str, str] | None = None) -> bool:
        """Of a new pod: what stands around a pod is read once, when it is scheduled."""
        name = f"asked-{next(numbers)}"
        pods.create(PodSpec(name, reference, namespace=NAMESPACE, annotations=said or {}, labels=asked))
        pods.wait_running(name)
        return wait_until(lambda: pods.matched(name) == found, seconds=2, every=0.1)

    def soon(expected: bool) -> bool:
        """The controller reads what is said with a delay."""
        return wait_until(lambda: hit() is expected, seconds=30, every=0.2)

    assert not hit()
    say_in_profile(system, json.dumps([on, off]))
    assert soon(True)
    say_in_profile(system, json.dumps([off, on]))
    assert soon(False)
    system.cluster.kubectl("annotate", "namespace", NAMESPACE, f"{keys.AUTO}=true")
    assert soon(True)
    assert not hit(OFF)
    system.cluster.kubectl("annotate", "--overwrite", "namespace", NAMESPACE, f"{keys.AUTO}=false")
    assert soon(False)
    assert hit(ON)
    system.cluster.kubectl("annotate", "namespace", NAMESPACE, f"{keys.AUTO}-")
    say_in_profile(system, json.dumps([on]))
    assert soon(True)
    say_in_profile(system, "[{no JSON")
    assert soon(False)


@pytest.mark.usefixtures("profile")
def test_a_pin_of_a_selector_is_told_and_holds_nothing(site: Site, system: Installed) -> None:
    """The API server knows no selectors of ours, so it gives no gate (ADR 23)."""
    pods, numbers = SeenPods(system, NAMESPACE), itertools.count()
    spec = PodSpec("", site.registry.push("matched/selector:1", site.image()), namespace=NAMESPACE)
    say_in_profile(system, json.dumps([rule("pins", {keys.PIN: "nothing"})]))

    def told() -> bool:
        name = f"pinned-{next(numbers)}"
        pods.create(replace(spec, name=name))
        pods.wait_running(name)
        return wait_until(lambda: events.NOT_FOUND in pods.reasons(name), seconds=5, every=0.1)

    assert wait_until(told, seconds=60)


# while a cache changes


def versioned(site: Site, version: str) -> Image:
    """Two layers above busybox that say which version they are of."""
    folder = Path(tempfile.mkdtemp(dir=site.directory))
    word = f"{version}\n".encode()
    return busybox_image(folder, tar_of({"srv": None, "srv/low": word}), tar_of({"srv": None, "srv/high": word}))


def test_pods_that_start_while_a_cache_is_updated(site: Site, system: Installed, pods: SeenPods) -> None:
    """Each gets old or new, none a mixture, and none fails."""
    reference = site.registry.push("matched/moving:1", versioned(site, "1"))
    site.create("moving", reference)
    system.wait_ready("moving")
    before, numbers = cache_id(system, "moving"), itertools.count()
    script = ("sh", "-c", "cat /srv/low /srv/high >/dev/termination-log")
    spec = PodSpec("", reference, script, restart_policy="Never", annotations={keys.PIN: "moving"}, labels=MOVING)

    def start(count: int) -> None:
        pods.create(*(replace(spec, name=f"moving-{next(numbers):03}") for _ in range(count)))

    def updated() -> bool:
        desired, ready, _ = system.counts("moving")
        return cache_id(system, "moving") not in {"", before} and desired == ready

    start(3)
    assert wait_until(lambda: len(ended(pods)) == 3, seconds=60, every=0.2)
    site.registry.push("matched/moving:1", versioned(site, "2"))
    system.cluster.kubectl("annotate", "imagecache", "moving", f"{REFRESH}=now")
    for _ in range(_MOST):
        if updated():
            break
        start(2)
    assert wait_until(updated, seconds=60, every=0.2)
    system.wait_ready("moving")
    start(3)

    count = next(numbers)
    assert wait_until(lambda: len(ended(pods)) == count, seconds=90, every=0.2), pods.of("moving")
    said = [said_by(pod) for pod in ended(pods)]
    assert set(said) == {"1\n1\n", "2\n2\n"}
    assert (said[:3], said[-3:]) == (3 * ["1\n1\n"], 3 * ["2\n2\n"])
    assert {matched(pod) for pod in ended(pods)} == {before, cache_id(system, "moving")}


def ended(pods: SeenPods) -> list[Pod]:
    """Those that have ended well, oldest first; no other end is allowed."""
    found = pods.of("moving")
    assert "Failed" not in {text(pod, "status", "phase") for pod in found}
    return [pod for pod in found if text(pod, "status", "phase") == "Succeeded"]


def said_by(pod: Pod) -> str:
    """What its container wrote as it ended."""
    found = at(pod, "status", "containerStatuses")
    (status,) = found if isinstance(found, list) else [None]
    return text(status, "state", "terminated", "message")
