"""Which cache serves a pod: what is true of every verdict, whatever users write and in whatever state the caches are.

``rederived`` finds the outcome again from nothing but what the verdict explains.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from imagecache.api import ids
from imagecache.api.types import Phase
from imagecache.match import keys
from imagecache.match.ask import ask
from imagecache.match.index import Index
from imagecache.match.verdict import match
from imagecache.match.views import CacheView, Candidate, Defaults, Outcome, PodView, Rule, Verdict
from tests.unit.match.situations import DIGEST, NOW, OTHER_DIGEST

IMAGES = (
    "nginx",
    "docker.io/library/nginx:latest",
    "nginx:1.25",
    "busybox:1",
    "registry.example.com:5000/a/b:1",
    "registry.example.com:5000/a/b:2",
    f"nginx@{DIGEST}",
    f"nginx:1.25@{OTHER_DIGEST}",
    "Not An Image",
    "",
)
NODES = ("node-1", "node-2")
ARCHITECTURES = ("amd64", "arm64")
NAMES = "abcdef"
IDS = tuple(ids.derived_cache_id(f"uid-of-{name}") for name in NAMES)

images = st.lists(st.sampled_from(IMAGES), max_size=4).map(tuple)
values = st.sampled_from(["true", "false", " TRUE ", "1", "2", "", "0", "-1", *NAMES[:3], *IDS[:2]]) | st.text(
    max_size=5
)
said = st.dictionaries(st.sampled_from([*keys.KEYS, keys.EXTRA_STORAGE, "other"]), values, max_size=5)
labels = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)
some_nodes = st.frozensets(st.sampled_from(NODES))


@st.composite
def caches(draw: st.DrawFn) -> CacheView:
    name, spec = draw(st.sampled_from(NAMES)), draw(images)
    digests = st.frozensets(st.sampled_from([DIGEST, OTHER_DIGEST]), min_size=1)
    uid = f"uid-of-{name}"
    return CacheView(
        name=name,
        uid=uid,
        id=draw(st.sampled_from(["", ids.derived_cache_id(uid), ids.derived_cache_id(uid, "later")])),
        phase=draw(st.sampled_from(Phase)),
        images=spec,
        created=NOW - dt.timedelta(days=draw(st.integers(0, 2))),
        size=draw(st.integers(0, 2)),
        digests=draw(st.dictionaries(st.sampled_from([*spec, *IMAGES]), digests, max_size=3)),
        architectures=draw(st.frozensets(st.sampled_from(ARCHITECTURES))),
        deleted=draw(st.booleans()),
        reason=draw(st.sampled_from(["", "ImageNotFound: no such tag"])),
        nodes=draw(some_nodes),
        desired=draw(st.integers(0, 2)),
    )


pods = st.builds(
    PodView,
    namespace=st.sampled_from(["team", "kube-system"]),
    name=st.just("web"),
    uid=st.just("u"),
    images=images,
    labels=labels,
    annotations=said,
    pull_secrets=st.lists(st.sampled_from(["robot", "spare", "", "No Name"]), max_size=2).map(tuple),
    architecture=st.sampled_from(["", *ARCHITECTURES, "s390x"]),
    node=st.sampled_from(["", *NODES]),
)
rules = st.builds(Rule, st.sampled_from(["r", "s"]), labels, labels, said)
surroundings = st.builds(Defaults, said, labels, st.lists(rules, max_size=2).map(tuple), said)
worlds = st.lists(caches(), max_size=5, unique_by=lambda cache: cache.name)
everything = settings(deadline=None, max_examples=200)


@everything
@given(pods, surroundings, worlds, st.randoms(use_true_random=False))
def test_the_same_input_has_one_verdict_in_any_order(
    pod: PodView, around: Defaults, world: list[CacheView], random: Random
) -> None:
    shuffled = list(world)
    random.shuffle(shuffled)

    found = match(pod, around, Index(world))

    assert found == match(pod, around, Index(shuffled)) == match(pod, around, Index(world))
    assert found.ask == ask(pod, around)


@everything
@given(pods, surroundings, worlds)
def test_the_explanation_re_derives_the_decision(pod: PodView, around: Defaults, world: list[CacheView]) -> None:
    found = match(pod, around, Index(world))

    assert rederived(pod, found) == (found.outcome, found.winner, found.id, found.hold)
    assert list(found.candidates) == sorted(found.candidates, key=lambda each: each.rank)


def rederived(pod: PodView, found: Verdict) -> tuple[Outcome, str, str, bool]:
    asked, won = found.ask, [each for each in found.candidates if each.won]
    if asked.pin:
        if not found.candidates:
            return Outcome.NOT_FOUND, "", "", True
        (only,) = found.candidates
        return (Outcome.HIT, only.name, only.id, False) if won else (Outcome.NOT_COMPLETE, only.name, "", True)
    if not asked.auto:
        assert not found.candidates
        return Outcome.NOTHING, "", "", False
    served = {image for image, names in found.served if names}
    exact = sum(image in served for image in pod.images)
    met = exact == len(pod.images) if asked.perfect else exact >= (asked.count or 0)
    usable = [each for each in found.candidates if not is_a_state(each)]
    if not met or not usable:
        return Outcome.MISSED, "", "", False
    best = min(usable, key=lambda each: each.rank)
    return Outcome.HIT, best.name, best.id, False


def is_a_state(each: Candidate) -> bool:
    """Whether it lost for what it is, and not to another one or for the bar."""
    states = ("is being deleted", "has no bundle", "made for ", "not on ", *(phase.value for phase in Phase))
    return each.why.startswith(states)


@everything
@given(pods, surroundings, worlds)
def test_every_loser_says_why_and_it_is_true(pod: PodView, around: Defaults, world: list[CacheView]) -> None:
    found = match(pod, around, Index(world))

    assert [each.name for each in found.candidates if each.won] == ([found.winner] if found.id else [])
    assert all(each.won is (not each.why) for each in found.candidates)
    best = next((each for each in found.candidates if each.won), None)
    by_name = {cache.name: cache for cache in world}
    for each in found.candidates:
        assert is_true_of(each, best, by_name[each.name], pod), each


def is_true_of(each: Candidate, best: Candidate | None, cache: CacheView, pod: PodView) -> bool:
    if not cache.serves:
        return is_a_state(each)
    if each.why.startswith("made for "):
        return pod.architecture not in cache.architectures
    if each.why.startswith("not on "):
        return pod.node not in cache.nodes
    if best is None or each is best:
        return each is best or each.why.startswith("imc-")
    equal = (each.exact, each.repository, each.size, each.created)
    wanted = (best.exact, best.repository, best.size, best.created)
    words = ("fewer exact images", "fewer images of the same repository", "larger", "older")
    first = next((word for word, one, other in zip(words, equal, wanted, strict=True) if one != other), "by name after")
    return each.why.startswith(first) and best.name in each.why


@everything
@given(pods, surroundings, worlds)
def test_what_no_cache_serves_is_served_by_none(pod: PodView, around: Defaults, world: list[CacheView]) -> None:
    found = match(pod, around, Index(world))
    by_name = {cache.name: cache for cache in world}

    assert [image for image, _ in found.served] == list(dict.fromkeys(pod.images))
    for name in {name for _, names in found.served for name in names}:
        cache = by_name[name]
        assert cache.serves
        assert not pod.node or pod.node in cache.nodes


@everything
@given(pods, surroundings, worlds)
def test_a_cache_that_does_not_serve_changes_nothing_but_who_is_told(
    pod: PodView, around: Defaults, world: list[CacheView]
) -> None:
    """It is explained, its pin is told to wait instead of to be wrong, and what it builds is not made again."""
    found = match(pod, around, Index(world))
    without = match(pod, around, Index([cache for cache in world if cache.serves]))

    assert (found.id, found.hold, found.served) == (without.id, without.hold, without.served)
    if not found.ask.pin:
        assert (found.outcome, found.winner, found.events) == (without.outcome, without.winner, without.events)
    assert found.create in (without.create, None)


@everything
@given(pods, surroundings, worlds)
def test_a_cache_is_made_only_if_it_is_asked_for_and_something_is_missing(
    pod: PodView, around: Defaults, world: list[CacheView]
) -> None:
    found = match(pod, around, Index(world))
    missing = [image for image, names in found.served if not names]

    if found.create is not None:
        assert found.ask.create
        assert found.ask.auto
        assert not found.ask.pin
        assert missing
        assert 0 < len(found.create.images) <= 20
        assert all(secret.startswith(f"{pod.namespace}:") for secret in found.create.pull_secrets)
        again = match(pod, around, Index([*world, made(found.create.name, found.create.images)]))
        assert again.create is None, "the second pod makes nothing"
    elif found.ask.create and found.ask.auto and not found.ask.pin and missing:
        assert found.notes, "it says why"


def made(name: str, image_names: tuple[str, ...]) -> CacheView:
    return CacheView(name=name, uid=name, id="", phase=Phase.PENDING, images=image_names, created=NOW)


@everything
@given(pods, surroundings, worlds)
def test_a_pod_is_held_if_and_only_if_its_pin_is_not_met(
    pod: PodView, around: Defaults, world: list[CacheView]
) -> None:
    found = match(pod, around, Index(world))

    assert found.hold is (found.outcome in {Outcome.NOT_FOUND, Outcome.NOT_COMPLETE})
    assert found.hold is (bool(found.ask.pin) and not found.id)
    assert bool(found.id) is (found.outcome is Outcome.HIT)
    everywhere = [dataclasses.replace(cache, nodes=frozenset(NODES)) for cache in world]
    assert match(pod, around, Index(everywhere)).hold is found.hold, "a pin is not judged by node"


@everything
@given(pods, surroundings, worlds)
def test_who_asked_is_told_and_nobody_else(pod: PodView, around: Defaults, world: list[CacheView]) -> None:
    found = match(pod, around, Index(world))

    expected = found.outcome is not Outcome.NOTHING and (found.ask.explicit or bool(found.ask.pin))
    assert len(found.events) == expected
    assert all(event.message.isprintable() and len(event.message) < 1024 for event in found.events)
