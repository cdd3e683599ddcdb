"""Who has room, who waits and who goes: one situation of a whole cluster after the other."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from imagecache.api import phases, times
from imagecache.api.ids import owner
from imagecache.api.types import Attempt, Phase
from imagecache.api.yamltext import JSON
from imagecache.controller.decide import SOON
from imagecache.controller.decision import AddFinalizer, Broken, DeleteObject, Running, StopBuild
from imagecache.controller.quota import Limits, Place, Stored, place_of, standing
from imagecache.digest import Digest
from imagecache.errors import QuotaExceeded
from imagecache.kube.api import Object
from imagecache.limits import GIB
from imagecache.store.layer_name import LayerName, Space
from tests.unit.controller.situations import (
    BUILD_ONE,
    EDITED,
    HAS_ONE,
    NOT_FOUND,
    NOW,
    ONE,
    TWO,
    A,
    Case,
    cache,
    condition,
    creating,
    failed,
    pending,
    ready,
    request,
    settled,
    update_failed,
    updating,
)

MINUTE = dt.timedelta(minutes=1)
NOTHING = Stored()
FULL = QuotaExceeded("there may be 2 image caches (max_caches)", hint="raise it")


def place(name: str, **fields: Any) -> Place:
    """One that serves, was made an hour ago and stays, unless ``fields`` say otherwise."""
    state = fields.pop("state", "serves")
    age = fields.pop("age", 60)
    made = NOW - age * MINUTE
    known: dict[str, Any] = {
        "uid": f"uid-{name}",
        "created": made,
        "used": made,
        "holds": state in {"serves", "builds", "updates"},
        "waits": state == "waits",
        "idle": state == "serves",
        "may_go": False,
        "automatic": False,
        "leaves": False,
        "clears": False,
    }
    return Place(name=name, **(known | fields))


def layer(name: str) -> LayerName:
    return LayerName(Space.LAYERS, Digest.sha256(name.encode()))


def stored(**layers: dict[str, int]) -> Stored:
    """By name of the cache: GiB of its layer images, by their names. Any other name is of somebody else."""
    return Stored(
        {
            owner(f"uid-{name}"): {layer(each): size * GIB for each, size in images.items()}
            for name, images in layers.items()
        }
    )


def answers(places: Sequence[Place], limits: Limits, has: Stored = NOTHING) -> tuple[set[str], set[str]]:
    """Names of those that are refused, and of those that go."""
    found = standing(places, limits, has, NOW)
    assert standing(list(reversed(places)), limits, has, NOW) == found
    return {each.name for each in places if found.refusal(each) is not None}, set(found.going)


TWO_CACHES, FULL_STORE = Limits(caches=2, automatic=1), Limits(store=10 * GIB)
SERVING = [place("a"), place("b")]


@pytest.mark.parametrize(
    ("places", "refused", "going"),
    [
        ([place("new", state="waits", age=0)], set(), set()),
        (SERVING, set(), set()),
        ([*SERVING, place("new", state="waits", age=0)], {"new"}, set()),
        # what has begun keeps its place, also when the limit was lowered
        ([*SERVING, place("c", state="builds")], set(), set()),
        ([*SERVING, place("c", state="updates", may_go=True)], set(), set()),
        # those that wait begin in the order in which they were made
        ([place("a"), place("y", state="waits", age=2), place("x", state="waits", age=1)], {"x"}, set()),
        ([place("a"), place("y", state="waits", age=1), place("x", state="waits", age=1)], {"y"}, set()),
        # who may go makes room, one for each that waits
        ([place("a"), place("b", may_go=True), place("new", state="waits")], set(), {"b"}),
        ([place("a", may_go=True), place("b", may_go=True), place("new", state="waits")], set(), {"a"}),
        ([place("a", may_go=True, age=90), place("b", may_go=True), place("new", state="waits")], set(), {"a"}),
        (
            [place("a", may_go=True, used=NOW - 11 * MINUTE), place("b", may_go=True), place("new", state="waits")],
            set(),
            {"b"},
        ),
        ([*SERVING[:1], place("b", may_go=True, used=NOW - 9 * MINUTE), place("new", state="waits")], {"new"}, set()),
        ([*SERVING[:1], place("b", may_go=True, age=9), place("new", state="waits")], {"new"}, set()),
        ([*SERVING[:1], place("b", may_go=True, used=NOW - 10 * MINUTE), place("new", state="waits")], set(), {"b"}),
        ([place("a"), place("b", may_go=True, state="builds"), place("new", state="waits")], {"new"}, set()),
        # when the limit was lowered they go too, although nobody waits
        ([*SERVING, place("c", may_go=True)], set(), {"c"}),
        # who leaves has no place any longer
        ([place("a"), place("b", leaves=True), place("new", state="waits")], set(), set()),
        ([place("a"), place("b", may_go=True, leaves=True), place("new", state="waits")], set(), set()),
        # what failed has none either; what pods had made is not counted, and does not go for those that people make
        ([place("a"), place("b", state="failed"), place("new", state="waits")], set(), set()),
        ([*SERVING, place("c", automatic=True, may_go=True), place("new", state="waits")], {"new"}, set()),
        ([*SERVING, place("c", automatic=True, may_go=True, state="waits")], set(), set()),
    ],
)
def test_how_many_there_may_be(places: list[Place], refused: set[str], going: set[str]) -> None:
    assert answers(places, TWO_CACHES) == (refused, going)
    assert answers(places, Limits()) == (set(), set())


def test_a_label_that_anybody_can_write_makes_no_room() -> None:
    """As many as pods may have made have it by right; the others are counted, the youngest first."""
    labelled = [place(f"auto-{number}", automatic=True, state="waits", age=9 - number) for number in range(3)]

    assert answers([*SERVING, *labelled], Limits(caches=2, automatic=2)) == ({"auto-2"}, set())


@pytest.mark.parametrize(
    ("places", "rest", "refused", "going"),
    [
        ([place("a"), place("new", state="waits")], 7, set(), set()),
        ([place("a"), place("new", state="waits")], 8, {"new"}, set()),
        ([place("a"), place("b", state="builds"), place("c", state="updates")], 9, set(), set()),
        # no more than it takes, and only for somebody
        ([place("a", may_go=True), place("b", may_go=True)], 7, set(), set()),
        ([place("a", may_go=True), place("b", may_go=True), place("new", state="waits")], 7, {"new"}, {"a"}),
        ([place("a", may_go=True), place("b", may_go=True), place("new", state="waits")], 8, {"new"}, {"a", "b"}),
        # all of them are not enough
        ([place("a", may_go=True), place("b", may_go=True), place("new", state="waits")], 10, {"new"}, set()),
        # what clears is as good as gone
        (
            [place("a", leaves=True, clears=True), place("b", may_go=True), place("new", state="waits")],
            7,
            {"new"},
            set(),
        ),
        (
            [place("a", leaves=True, clears=True), place("b", may_go=True), place("new", state="waits")],
            8,
            {"new"},
            {"b"},
        ),
        # somebody else's finalizer keeps an object, not its bundle
        ([place("a", leaves=True), place("b", may_go=True), place("new", state="waits")], 9, {"new"}, {"b"}),
        # what pods had made goes as well: it takes the same room
        ([place("a", automatic=True, may_go=True), place("new", state="waits")], 9, {"new"}, {"a"}),
        ([place("a"), place("new", automatic=True, state="waits")], 9, {"new"}, set()),
    ],
)
def test_how_much_the_store_may_have(places: list[Place], rest: int, refused: set[str], going: set[str]) -> None:
    """Each that serves has 2 GiB for itself, and others have the rest; there may be 10."""
    own = {each.name: {each.name: 2} for each in places if each.idle and (each.clears or not each.leaves)}

    assert answers(places, FULL_STORE, stored(**own, others={"rest": rest})) == (refused, going)


THREE = [place(name, may_go=True, age=90 - number) for number, name in enumerate("abc")]
"""The least recently used one first."""
WAITING = place("new", state="waits", age=0)


@pytest.mark.parametrize(
    ("has", "going"),
    [
        # all that the least recently used one has is somebody else's too
        ({"a": {"base": 4}, "b": {"base": 4, "b": 1}, "others": {"base": 4, "x": 5}}, {"b"}),
        ({"a": {"base": 10}, "others": {"base": 10}}, set()),
        # two have the same between them: one alone would free nothing
        ({"a": {"both": 5}, "b": {"both": 5}, "others": {"x": 5}}, {"a", "b"}),
        # ... and the third is not needed for that
        ({"a": {"both": 5}, "b": {"base": 3}, "c": {"both": 5}, "others": {"base": 3, "x": 2}}, {"a", "c"}),
        # what is shared counts once, so this one is enough
        ({"a": {"base": 3, "a": 1}, "b": {"base": 3, "b": 1}, "c": {"base": 3, "c": 5}}, {"a"}),
        # the least recently used one is not needed beside the next
        ({"a": {"a": 1}, "b": {"b": 5}, "others": {"x": 8}}, {"b"}),
        # a damaged bundle, of which nothing is known, and one that has none
        ({"a": {}, "c": {"c": 1}, "others": {"x": 9}}, {"c"}),
    ],
)
def test_layers_that_others_have_make_no_room(has: dict[str, dict[str, int]], going: set[str]) -> None:
    assert answers([*THREE, WAITING], FULL_STORE, stored(**has)) == ({"new"}, going)


def test_nobody_goes_for_one_that_may_not_begin() -> None:
    """There are as many as there may be, and none of them may go: bytes would change nothing."""
    staying, auto = place("old"), place("auto", may_go=True, automatic=True, age=90)
    has = stored(auto={"x": 10})

    assert answers([staying, auto, WAITING], Limits(caches=1, automatic=1, store=10 * GIB), has) == ({"new"}, set())


def test_who_goes_for_the_number_makes_room_for_bytes_too() -> None:
    has = stored(**{each: {each: 4} for each in "abc"})

    assert answers([*THREE, WAITING], Limits(caches=3, store=10 * GIB), has) == ({"new"}, {"a"})


def test_a_refusal_names_its_limit_and_what_ends_it() -> None:
    many = standing([*SERVING, place("new", state="waits")], TWO_CACHES, Stored(), NOW).refusal(
        place("new", state="waits")
    )
    much = standing([place("new", state="waits")], FULL_STORE, stored(others={"x": 10}), NOW).refusal(
        place("new", state="waits")
    )

    assert many is not None
    assert much is not None
    assert str(many) == "there may be 2 image caches (max_caches), and as many have been begun"
    assert str(much) == "the store may have 10 GiB (max_store_size), and has them"
    for error, setting in ((many, "max_caches"), (much, "max_store_size")):
        assert "imagecache.dev/elimination-strategy: LRU" in error.hint
        assert error.hint.endswith(f"raise {setting}")
    why = standing([*SERVING, place("c", may_go=True)], TWO_CACHES, Stored(), NOW).going["c"]
    assert "max_caches" in why
    assert why.endswith("it was used least recently, at 2024-05-01T11:00:00Z")


def item(status: dict[str, JSON] | None = None, **metadata: Any) -> Object:
    known: dict[str, Any] = {"name": "a", "uid": "u", "creationTimestamp": "2024-05-01T11:00:00Z"}
    known["finalizers"] = ["imagecache.dev/bundle"]
    return {"metadata": known | metadata, "spec": {}, "status": status}


@pytest.mark.parametrize(
    ("status", "wanted", "state"),
    [
        (None, "", "waits"),
        ("Pending", "", "waits"),
        ("Pending", "x", "holds"),
        ("Creating", "x", "holds"),
        ("Ready", "x", "idle"),
        ("Ready", "", "idle"),
        ("UpdateFailed", "x", "idle"),
        ("Updating", "x", "holds"),
        ("Failed", "x", ""),
    ],
)
def test_what_an_object_shows(status: str | None, wanted: str, state: str) -> None:
    found = place_of(item({"phase": status, "attempt": {"wanted": wanted}} if status else {"observedGeneration": -1}))

    assert (found.waits, found.idle) == (state == "waits", state == "idle")
    assert found.holds == (state in {"holds", "idle"})
    assert found.used == found.created == times.parse("2024-05-01T11:00:00Z")


def test_what_its_owner_says_and_when_it_was_used() -> None:
    used = place_of(item({"phase": "Ready", "lastMatchedTime": "2024-05-01T11:30:00Z"}))
    marked = place_of(item(annotations={"imagecache.dev/elimination-strategy": " lru "}))
    other = place_of(item(annotations={"imagecache.dev/elimination-strategy": "FIFO"}))
    made = place_of(item(labels={"imagecache.dev/auto-created": "true"}))
    leaving = place_of(item(deletionTimestamp="2024-05-01T11:00:00Z"))
    left = place_of(item(deletionTimestamp="2024-05-01T11:00:00Z", finalizers=["theirs"]))

    assert used.used == times.parse("2024-05-01T11:30:00Z")
    assert (marked.may_go, other.may_go) == (True, False)
    assert (made.automatic, made.may_go) == (True, True)
    assert (leaving.leaves, leaving.clears, left.leaves, left.clears) == (True, True, True, False)


CASES: dict[str, Case] = {
    "what-has-no-room-waits-and-does-not-fail": Case(
        cache(finalizers=()),
        {"refusal": FULL},
        actions=(AddFinalizer(),),
        phase=Phase.PENDING,
        events=("QuotaExceeded",),
        problem=FULL,
        check=lambda s: (
            (s.reason, condition(s, "Ready"), condition(s, "Reconciling"), s.expire_date_time, s.attempt)
            == (
                "QuotaExceeded: there may be 2 image caches (max_caches); raise it",
                ("False", "QuotaExceeded"),
                ("True", "QuotaExceeded"),
                "",
                Attempt(image_cache_id=ONE),
            )
        ),
    ),
    "it-is-said-once": Case(
        cache(
            status=settled(
                phases.waiting(
                    replace(pending(), attempt=Attempt(image_cache_id=ONE)),
                    1,
                    NOW,
                    reason="QuotaExceeded",
                    message="there may be 2 image caches (max_caches); raise it",
                ),
                bundles={},
                refusal=FULL,
            )
        ),
        {"refusal": FULL},
        problem=FULL,
    ),
    "and-begins-when-there-is-room": Case(
        cache(status=replace(pending(), attempt=Attempt(image_cache_id=ONE))), actions=(BUILD_ONE,), phase=Phase.PENDING
    ),
    "a-bundle-that-is-there-takes-no-more-room": Case(
        A, HAS_ONE | {"refusal": FULL}, phase=Phase.READY, events=("Ready",)
    ),
    "also-what-failed-and-was-corrected-waits": Case(
        cache("redis:7", generation=2, status=failed(NOT_FOUND)),
        {"refusal": FULL},
        phase=Phase.PENDING,
        events=("Retrying", "QuotaExceeded"),
        problem=FULL,
        check=lambda s: s.attempt == Attempt(image_cache_id=ONE),
    ),
    "a-store-that-has-become-full-since-then-is-no-failure": Case(
        cache(status=creating()),
        {"build": Broken(request(ONE, A), FULL)},
        actions=(StopBuild(),),
        phase=Phase.PENDING,
        events=("QuotaExceeded",),
        problem=FULL,
        check=lambda s: s.attempt == Attempt(image_cache_id=ONE),
    ),
    "what-has-to-go-goes": Case(
        cache(status=settled(ready())),
        HAS_ONE | {"eviction": "no room"},
        actions=(DeleteObject(),),
        events=("Evicted",),
        again=SOON,
    ),
    "not-while-it-is-built-anew": Case(
        EDITED.with_status(updating()),
        HAS_ONE | {"eviction": "no room", "build": Running(request(TWO, EDITED), 30, 100)},
        phase=Phase.UPDATING,
    ),
    "and-one-whose-update-failed-goes-too": Case(
        EDITED.with_status(update_failed(NOT_FOUND)),
        HAS_ONE | {"eviction": "no room"},
        actions=(DeleteObject(),),
        events=("Evicted",),
        again=SOON,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_decide(name: str) -> None:
    CASES[name].hold()
