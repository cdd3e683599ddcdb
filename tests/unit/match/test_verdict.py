"""Each row of ECI's table of outcomes (eci-api §4), and what the table leaves open."""

from __future__ import annotations

import dataclasses

import pytest

from imagecache.api import ids
from imagecache.api.annotations import CPU_ARCH
from imagecache.api.types import Phase
from imagecache.match import keys
from imagecache.match.views import Candidate, Defaults, Outcome
from tests.unit.match.situations import BUSYBOX, DIGEST, NGINX, OTHER_DIGEST, cache, pod, reasons, verdict

AUTO, CREATE = {keys.AUTO: "true"}, {keys.AUTO: "true", keys.CREATE: "true"}
NO_CACHE = "imc-" + "0" * 20


# every row of the table


def test_pin_ready_equal() -> None:
    pinned = cache("a", NGINX)

    found = verdict(pod(NGINX, asks={keys.PIN: pinned.id}), pinned)

    assert (found.outcome, found.winner, found.id, found.hold, found.create) == (
        Outcome.HIT,
        "a",
        pinned.id,
        False,
        None,
    )
    assert [event.message for event in found.events] == [
        f"[eci.imagecache]Successfully hit image cache {pinned.id}, eci will be scheduled with this image cache."
    ]
    assert found.served == ((NGINX, ("a",)),)


def test_pin_ready_differs() -> None:
    found = verdict(pod(NGINX, asks={keys.PIN: "a", **CREATE}), cache("a", BUSYBOX), cache("better", NGINX))

    assert (found.outcome, found.winner, found.create) == (Outcome.HIT, "a", None)
    assert [(each.name, each.exact, each.won) for each in found.candidates] == [("a", 0, True)]


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.CREATING, Phase.FAILED])
def test_pin_not_ready_is_held(phase: Phase) -> None:
    pinned = dataclasses.replace(cache("a", NGINX, phase=phase), reason="ImageNotFound: nginx:1.25: no such tag")

    found = verdict(pod(NGINX, asks={keys.PIN: "a", **CREATE}), pinned, cache("b", NGINX))

    assert (found.outcome, found.winner, found.id, found.hold, found.create) == (
        Outcome.NOT_COMPLETE,
        "a",
        "",
        True,
        None,
    )
    assert [(event.reason, event.type, event.message) for event in found.events] == [
        (
            "ImageCacheNotComplete",
            "Normal",
            "[eci.imagecache]The production for specified image cache a is not yet complete.",
        )
    ]
    assert found.candidates[0].why == f"{phase.value}: ImageNotFound: nginx:1.25: no such tag"


def test_pin_unknown_is_held() -> None:
    found = verdict(pod(NGINX, asks={keys.PIN: NO_CACHE, **CREATE}), cache("a", NGINX))

    assert (found.outcome, found.winner, found.hold, found.create) == (Outcome.NOT_FOUND, "", True, None)
    assert [(event.reason, event.type, event.message) for event in found.events] == [
        (
            "ImageCacheNotFound",
            "Warning",
            f"[eci.imagecache]The specified image cache {NO_CACHE} does not exist.",
        )
    ]


def test_auto_exact() -> None:
    found = verdict(pod(NGINX, asks=CREATE), cache("a", NGINX))

    assert (found.outcome, found.winner, found.create) == (Outcome.HIT, "a", None)
    assert reasons(found) == ["SuccessfulHitImageCache"]


def test_auto_partial_creates() -> None:
    found = verdict(pod(NGINX, BUSYBOX, asks=CREATE, secrets=("robot", "robot")), cache("a", NGINX))

    assert (found.outcome, found.winner) == (Outcome.HIT, "a")
    assert found.create is not None
    assert found.create.images == ("docker.io/library/busybox:1.36", "docker.io/library/nginx:1.25")
    assert found.create.pull_secrets == ("team:robot",)
    assert found.served == ((NGINX, ("a",)), (BUSYBOX, ()))


def test_auto_none_creates() -> None:
    found = verdict(pod(NGINX, asks=CREATE))

    assert (found.outcome, found.winner, found.hold) == (Outcome.MISSED, "", False)
    assert found.create is not None
    assert [(event.reason, event.type, event.message) for event in found.events] == [
        ("ImageCacheMissed", "Warning", "[eci.imagecache]Missed image cache.")
    ]


def test_perfect_not_met_pulls() -> None:
    asks = {keys.PERFECT: "true", keys.COUNT: "1", keys.CREATE: "true"}

    found = verdict(pod(NGINX, BUSYBOX, asks=asks), cache("a", NGINX))

    assert (found.outcome, found.winner) == (Outcome.MISSED, "")
    assert found.create is not None
    assert found.candidates[0].why == "imc-perfect-match: 1 of 2 images are cached exactly"
    assert found.candidates[0].why in found.notes


def test_perfect_is_met_by_all_caches_together() -> None:
    found = verdict(pod(NGINX, BUSYBOX, asks={keys.PERFECT: "true"}), cache("a", NGINX), cache("b", BUSYBOX, days=1))

    assert (found.outcome, found.winner) == (Outcome.HIT, "a")


@pytest.mark.parametrize(("wanted", "outcome"), [("1", Outcome.HIT), ("2", Outcome.HIT), ("3", Outcome.MISSED)])
def test_count_met(wanted: str, outcome: Outcome) -> None:
    """At least so many containers: two of one image are two."""
    found = verdict(pod(NGINX, NGINX, BUSYBOX, asks={keys.COUNT: wanted}), cache("a", NGINX))

    assert found.outcome is outcome
    assert found.candidates[0].exact == 2


def test_auto_off() -> None:
    found = verdict(
        pod(NGINX, asks={keys.AUTO: "false", keys.AUTO_OLD: "true", keys.CREATE: "true"}), cache("a", NGINX)
    )

    assert (found.outcome, found.winner, found.create, found.events) == (Outcome.NOTHING, "", None, ())
    assert found.served == ((NGINX, ("a",)),)


# pins


def test_a_pin_is_an_id_an_id_of_an_earlier_bundle_or_a_name() -> None:
    first = cache("a", NGINX)
    updated = dataclasses.replace(first, id=ids.derived_cache_id(first.uid, first.id))

    for text in (updated.id, first.id, "a"):
        found = verdict(pod(NGINX, asks={keys.PIN: text}), updated)
        assert (found.outcome, found.id) == (Outcome.HIT, updated.id)


def test_an_id_wins_over_a_name_that_looks_like_one() -> None:
    first, other = cache("a", NGINX), cache("b", NGINX)
    named = dataclasses.replace(other, name=first.id)

    assert verdict(pod(NGINX, asks={keys.PIN: first.id}), first, named).winner == "a"
    assert verdict(pod(NGINX, asks={keys.PIN: first.id}), named).winner == first.id


def test_the_old_key_pins_and_the_new_one_wins() -> None:
    caches = (cache("a", NGINX), cache("b", NGINX))

    assert verdict(pod(NGINX, asks={keys.PIN_OLD: "a"}), *caches).winner == "a"
    assert verdict(pod(NGINX, asks={keys.PIN_OLD: "a", keys.PIN: "b"}), *caches).winner == "b"


@pytest.mark.parametrize("phase", [Phase.UPDATING, Phase.UPDATE_FAILED])
def test_the_old_content_of_an_update_serves(phase: Phase) -> None:
    updating = cache("a", NGINX, phase=phase)

    assert verdict(pod(NGINX, asks={keys.PIN: "a"}), updating).outcome is Outcome.HIT
    assert verdict(pod(NGINX), updating).outcome is Outcome.HIT


def test_a_cache_that_is_being_deleted_is_gone() -> None:
    going = dataclasses.replace(cache("a", NGINX), deleted=True)

    for text in ("a", going.id):
        assert verdict(pod(NGINX, asks={keys.PIN: text}), going).outcome is Outcome.NOT_FOUND
    assert [each.why for each in verdict(pod(NGINX), going).candidates] == ["is being deleted"]


def test_a_pin_is_not_judged_by_node_but_explained() -> None:
    pinned = dataclasses.replace(cache("a", NGINX), nodes=frozenset({"node-2"}))

    found = verdict(pod(NGINX, asks={keys.PIN: "a"}, node="node-1"), pinned)

    assert found.outcome is Outcome.HIT
    assert found.notes == ("a: not on node-1; what is missing there is pulled",)


def test_a_pin_that_nobody_can_mean_stays_one_short_line() -> None:
    found = verdict(pod(NGINX, asks={keys.PIN: "a\nb\x1b[31m\N{NO-BREAK SPACE}c" + "d" * 1000}))

    message = found.events[0].message
    assert message.startswith(r"[eci.imagecache]The specified image cache a\nb\x1b[31m\xa0cddd")
    assert len(message) < 350


# automatic


def test_who_did_not_ask_is_told_nothing() -> None:
    assert verdict(pod(NGINX)).events == ()
    assert verdict(pod(NGINX), cache("a", NGINX)).events == ()
    assert reasons(verdict(pod(NGINX), defaults=Defaults(namespace_annotations=AUTO))) == ["ImageCacheMissed"]
    assert verdict(pod(NGINX), defaults=Defaults(cluster={keys.CREATE: "true"})).events == ()


def test_another_tag_is_a_hit_of_a_lower_degree() -> None:
    found = verdict(pod("nginx:2"), cache("a", NGINX))

    assert (found.outcome, found.winner) == (Outcome.HIT, "a")
    assert [(each.exact, each.repository) for each in found.candidates] == [(0, 1)]
    assert found.served == (("nginx:2", ()),)


def test_one_exact_image_beats_any_number_of_relatives() -> None:
    found = verdict(pod(NGINX, "busybox:1", "redis:7"), cache("a", NGINX), cache("b", BUSYBOX, "redis:6", "nginx:1"))

    assert found.winner == "a"
    assert [each.why for each in found.candidates] == ["", "fewer exact images than a"]


def test_ranks_and_why_each_lost() -> None:
    best = cache("m", NGINX, "redis:6", size=5)
    others = [
        cache("a", "nginx:1", "redis:6"),
        cache("b", NGINX),
        cache("c", NGINX, "redis:6", size=6),
        cache("d", NGINX, "redis:6", size=5, days=1),
        cache("n", NGINX, "redis:6", size=5),
        cache("z", NGINX, "redis:6", phase=Phase.PENDING),
    ]

    found = verdict(pod(NGINX, "redis:7"), *others, best)

    assert {each.name: each.why for each in found.candidates} == {
        "m": "",
        "a": "fewer exact images than m",
        "b": "fewer images of the same repository than m",
        "c": "larger than m",
        "d": "older than m",
        "n": "by name after m",
        "z": "Pending",
    }
    assert list(found.candidates) == sorted(found.candidates, key=_rank)


def _rank(each: Candidate) -> tuple[int, int, int, float, str]:
    return each.rank


def test_it_is_judged_against_the_pods_own_node() -> None:
    there = dataclasses.replace(cache("there", NGINX), nodes=frozenset({"node-2"}), desired=1)
    here = dataclasses.replace(cache("here", "nginx:1"), nodes=frozenset({"node-1", "node-2"}), desired=2)

    found = verdict(pod(NGINX, asks=CREATE, node="node-1"), there, here)

    assert (found.winner, found.served) == ("here", ((NGINX, ()),))
    assert {each.name: each.why for each in found.candidates} == {"here": "", "there": "not on node-1"}
    assert found.create is not None
    assert verdict(pod(NGINX), there, here).winner == "there"
    assert reasons(verdict(pod(NGINX, asks=AUTO, node="node-1"), there)) == ["ImageCacheMissed"]


def test_it_is_judged_by_the_architecture_that_the_pod_asks_for() -> None:
    arm = dataclasses.replace(cache("arm", NGINX), architectures=frozenset({"arm64"}))
    amd = dataclasses.replace(cache("amd", NGINX, days=1), architectures=frozenset({"amd64"}))

    found = verdict(dataclasses.replace(pod(NGINX), architecture="amd64"), arm, amd)

    assert {each.name: each.why for each in found.candidates} == {
        "amd": "",
        "arm": "made for arm64, the pod runs on amd64",
    }
    assert verdict(pod(NGINX), arm, amd).winner == "arm"


def test_a_pod_without_images_is_matched_with_nothing() -> None:
    found = verdict(pod(asks={keys.PERFECT: "true", **CREATE}), cache("a", NGINX))

    assert (found.outcome, found.candidates, found.create) == (Outcome.MISSED, (), None)


# what an update builds, and digests


def test_during_an_update_the_old_images_count() -> None:
    """The spec names the new ones already; those are on their way, so nothing is created for them."""
    updating = dataclasses.replace(
        cache("a", "nginx:2", phase=Phase.UPDATING), digests={NGINX: frozenset({DIGEST})}, size=1
    )

    assert verdict(pod(NGINX), updating).candidates[0].exact == 1
    found = verdict(pod("nginx:2", asks=CREATE), updating)
    assert (found.candidates[0].exact, found.candidates[0].repository) == (0, 1)
    assert (found.create, found.notes) == (None, ("nginx:2 is on its way: a",))
    failed = dataclasses.replace(updating, phase=Phase.UPDATE_FAILED)
    assert verdict(pod("nginx:2", asks=CREATE), failed).create is not None


@pytest.mark.parametrize(
    ("image", "exact"),
    [
        (f"nginx@{DIGEST}", True),
        (f"nginx:other@{DIGEST}", True),
        (f"docker.io/library/nginx@{DIGEST}", True),
        (f"nginx@{OTHER_DIGEST}", False),
        (NGINX, True),
        ("nginx", False),
    ],
)
def test_a_digest_is_exact_if_the_cache_resolved_to_it(image: str, exact: bool) -> None:
    built = dataclasses.replace(cache("a", NGINX), digests={NGINX: frozenset({DIGEST})})

    assert verdict(pod(image), built).candidates[0].exact == exact


@pytest.mark.parametrize(("image", "exact"), [(f"nginx@{DIGEST}", True), (NGINX, False), (f"{NGINX}@{DIGEST}", True)])
def test_a_cache_of_a_digest_has_no_tag(image: str, exact: bool) -> None:
    """containerd drops a tag beside a digest: a pod that names the tag asks the registry."""
    assert verdict(pod(image), cache("a", f"{NGINX}@{DIGEST}")).candidates[0].exact == exact


@pytest.mark.parametrize(
    "image",
    ["nginx", "nginx:latest", "docker.io/library/nginx", "index.docker.io/library/nginx:latest", "library/nginx"],
)
def test_names_are_normalised_on_both_sides(image: str) -> None:
    for other in ("nginx", "docker.io/library/nginx:latest"):
        assert verdict(pod(image), cache("a", other)).candidates[0].exact == 1
    assert verdict(pod(image), cache("a", "registry.example.com/library/nginx")).candidates == ()


def test_texts_that_are_no_images_match_nothing() -> None:
    found = verdict(pod("Not An Image", "", "nginx:" + "x" * 5000, asks=CREATE), cache("a", NGINX, "Not An Image"))

    assert (found.outcome, found.candidates, found.create) == (Outcome.MISSED, (), None)
    assert found.notes == ("no cache is made: not an image reference: 'Not An Image'",)


# what a miss makes


def test_the_name_follows_from_the_content() -> None:
    def name(*images: str, asks: dict[str, str] | None = None, secrets: tuple[str, ...] = ()) -> str:
        created = verdict(pod(*images, asks={**CREATE, **(asks or {})}, secrets=secrets)).create
        assert created is not None
        return created.name

    same = {
        name(NGINX, BUSYBOX),
        name(BUSYBOX, NGINX, NGINX),
        name("docker.io/library/nginx:1.25", BUSYBOX),
        name(NGINX, BUSYBOX, asks={keys.EXTRA_STORAGE: "5Gi"}),
    }
    others = [
        name(NGINX),
        name(NGINX, BUSYBOX, secrets=("robot",)),
        name(NGINX, BUSYBOX, secrets=("robot", "spare")),
        name(NGINX, BUSYBOX, asks={"k8s.aliyun.com/insecure-registry": "registry.example.com"}),
    ]
    assert len(same) == 1
    assert len({*same, *others}) == 5
    assert all(len(each) == len("auto-create-for-") + 20 for each in same)


def test_the_secrets_are_of_the_pods_own_namespace() -> None:
    created = verdict(pod(NGINX, asks=CREATE, secrets=("robot", "", "No Name", "other:robot"))).create

    assert created is not None
    assert created.pull_secrets == ("team:robot",)


@pytest.mark.parametrize(
    ("extra", "size"),
    [("50Gi", 80), ("0", 30), ("", 30), ("1", 31), ("1.5Gi", 32), ("2048Mi", 32), ("1G", 31), ("99999Ti", 32768)],
)
def test_the_size_is_thirty_gib_and_the_extra_storage(extra: str, size: int) -> None:
    created = verdict(pod(NGINX, asks={**CREATE, keys.EXTRA_STORAGE: extra})).create

    assert created is not None
    assert created.size == size


def test_odd_values_for_the_build_are_ignored_with_a_note() -> None:
    asks = {
        **CREATE,
        keys.EXTRA_STORAGE: "much",
        "k8s.aliyun.com/plain-http-registry": "http://x",
        "k8s.aliyun.com/insecure-registry": "B.example.com, a.example.com:5000",
    }

    found = verdict(dataclasses.replace(pod(NGINX, asks=asks), architecture="arm64"))

    assert found.create is not None
    assert found.create.size == 30
    assert found.create.annotations == {
        "k8s.aliyun.com/insecure-registry": "a.example.com:5000,b.example.com",
        CPU_ARCH: "arm64",
    }
    assert len(found.notes) == 2
    odd = verdict(dataclasses.replace(pod(NGINX, asks=CREATE), architecture="s390x")).create
    assert odd is not None
    assert odd.annotations == {}


def test_at_most_twenty_images() -> None:
    images = [f"app:{number}" for number in range(21)]

    found = verdict(pod(*images, asks=CREATE))

    assert (found.create, found.notes) == (None, ("no cache is made: 21 images, a cache has at most 20",))
    assert verdict(pod(*images[:20], *images[:20], asks=CREATE)).create is not None


def test_nothing_is_created_for_what_all_caches_have_together_or_soon() -> None:
    asking = pod(NGINX, BUSYBOX, asks=CREATE)

    assert verdict(asking, cache("a", NGINX), cache("b", BUSYBOX)).create is None
    coming = verdict(asking, cache("a", NGINX), cache("b", BUSYBOX, phase=Phase.CREATING))
    assert (coming.create, coming.notes) == (None, (f"{BUSYBOX} is on its way: b",))
    assert verdict(asking, cache("a", NGINX), cache("b", BUSYBOX, phase=Phase.FAILED)).create is not None


def test_nothing_is_created_for_what_is_on_its_way_to_the_node() -> None:
    late = dataclasses.replace(cache("a", NGINX), nodes=frozenset({"node-2"}), desired=2)

    found = verdict(pod(NGINX, asks=CREATE, node="node-1"), late)

    assert (found.create, found.notes) == (None, (f"{NGINX} is on its way: a",))


def test_a_failed_auto_cache_keeps_its_name() -> None:
    asking = pod(NGINX, asks=CREATE)
    created = verdict(asking).create
    assert created is not None

    found = verdict(asking, cache(created.name, NGINX, phase=Phase.FAILED))

    assert (found.create, found.notes) == (None, (f"{created.name} exists: Failed",))


def test_nothing_is_created_for_kube_system_and_static_pods() -> None:
    system = dataclasses.replace(pod(NGINX, asks=CREATE), namespace="kube-system")
    static = pod(NGINX, asks={**CREATE, "kubernetes.io/config.mirror": "x"})

    for each in (system, static):
        found = verdict(each)
        assert (found.create, found.notes) == (None, ("no cache is made for static pods and those of kube-system",))
