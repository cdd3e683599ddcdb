"""Any caches under any limit: nobody has too much, nobody goes who may not, and the order of looks changes nothing."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from imagecache.api.ids import owner
from imagecache.controller.quota import RECENT, Limits, Place, Stored, standing
from imagecache.digest import Digest
from imagecache.store.layer_name import LayerName, Space

Has = dict[str, dict[LayerName, int]]
NOW = dt.datetime(2024, 5, 1, 12, 0, 0, tzinfo=dt.UTC)
MINUTES = st.integers(0, 30).map(lambda minutes: NOW - dt.timedelta(minutes=minutes))


def layer(name: str) -> LayerName:
    return LayerName(Space.LAYERS, Digest.sha256(name.encode()))


def stored(layers: Has) -> Stored:
    return Stored({owner(f"uid-{name}"): images for name, images in layers.items()})


def left(layers: Has, gone: set[str]) -> int:
    """Bytes without these."""
    return sum({each: size for name in layers.keys() - gone for each, size in layers[name].items()}.values())


@st.composite
def place(draw: st.DrawFn, name: str) -> Place:
    state = draw(st.sampled_from(["serves", "updates", "builds", "waits", "failed"]))
    automatic, leaves = draw(st.booleans()), draw(st.booleans())
    created = draw(MINUTES)
    return Place(
        name=name,
        uid=f"uid-{name}",
        created=created,
        used=draw(st.just(created) | MINUTES),
        holds=state in {"serves", "updates", "builds"},
        waits=state == "waits",
        idle=state == "serves",
        may_go=automatic or draw(st.booleans()),
        automatic=automatic,
        leaves=leaves,
        clears=leaves and draw(st.booleans()),
    )


PLACES = st.integers(0, 12).flatmap(lambda count: st.tuples(*(place(f"c{number}") for number in range(count))))
LIMITS = st.builds(Limits, caches=st.integers(0, 8), store=st.sampled_from([0, 1, 100]), automatic=st.integers(0, 3))
LAYERS = st.dictionaries(st.sampled_from([layer(name) for name in "abcdefg"]), st.just(0), max_size=5)
SIZES = st.fixed_dictionaries({layer(name): st.integers(0, 60) for name in "abcdefg"})


@st.composite
def has(draw: st.DrawFn) -> Has:
    """By name of the cache; of a few that are gone, or were never ours, too. A layer image has one size."""
    sizes = draw(SIZES)
    held = draw(st.dictionaries(st.sampled_from([f"c{number}" for number in range(7)]), LAYERS, min_size=2))
    return {name: {each: sizes[each] for each in layers} for name, layers in held.items()}


HAS = has()


@given(PLACES, LIMITS, HAS, st.randoms(use_true_random=False))
def test_the_answers_fit_each_other(places: tuple[Place, ...], limits: Limits, layers: Has, chance: Random) -> None:
    has = stored(layers)
    found = standing(places, limits, has, NOW)
    by_name = {each.name: each for each in places}
    shuffled = list(places)
    chance.shuffle(shuffled)
    assert standing(shuffled, limits, has, NOW) == found

    for name in found.going:
        gone = by_name[name]
        assert gone.may_go
        assert gone.idle
        assert not gone.leaves
        assert NOW - gone.used >= RECENT
    counted = [each for each in places if each.name not in found.free and not each.leaves]
    assert len(found.free) <= limits.automatic
    begin = [each for each in counted if each.waits and found.refusal(each) is None]
    staying = [each for each in counted if each.holds and each.name not in found.going]
    if limits.caches and begin:
        assert len(staying) + len(begin) <= limits.caches
    refused = [each for each in counted if each.waits and found.refusal(each) is not None]
    if refused and not found.full:
        assert len(staying) + len(begin) >= limits.caches, "there was room for another one"
        assert not any(each.may_go and each.idle and NOW - each.used >= RECENT for each in staying)
        assert all(first.turn < later.turn for first in begin for later in refused)
    if found.full:
        assert not begin
    assert all(found.refusal(each) is None for each in places if each.holds)


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Place, ...]:
    """Caches of which most may go, and one that waits for that."""
    count = draw(st.integers(1, 6))
    places = [draw(place(f"c{number}")) for number in range(count)]
    old = st.integers(10, 14).map(lambda minutes: NOW - dt.timedelta(minutes=minutes))
    idle = [
        replace(each, idle=True, may_go=True, holds=True, waits=False, leaves=False, clears=False, used=draw(old))
        for each in places
    ]
    chosen = [one if draw(st.integers(0, 4)) else other for one, other in zip(idle, places, strict=True)]
    waits = replace(
        places[0], name="new", uid="uid-new", holds=False, waits=True, idle=False, leaves=False, clears=False
    )
    return (*chosen, waits)


@settings(max_examples=500)
@given(crowds(), st.integers(1, 150), HAS)
def test_where_bytes_are_short_as_few_go_as_that_takes(places: tuple[Place, ...], most: int, layers: Has) -> None:
    found = standing(places, Limits(store=most), stored(layers), NOW)
    clearing = {each.name for each in places if each.clears}
    going = set(found.going)
    idle = [each for each in places if each.idle and each.may_go and not each.leaves and NOW - each.used >= RECENT]
    idle.sort(key=lambda each: (each.used, each.name))
    assert found.full == (left(layers, set()) >= most)

    if going:
        assert left(layers, clearing | going) < most, "it makes the room that is needed"
        for name in going:
            assert left(layers, (clearing | going) - {name}) >= most, "nobody goes who might have stayed"
        order = [each.name for each in idle]
        last = max(going, key=order.index)
        before = order[: order.index(last)]
        assert left(layers, clearing | set(before)) >= most, "nor with all that were used before it"
    elif found.full and any(each.waits and not each.leaves for each in places):
        everybody = clearing | {each.name for each in idle}
        assert left(layers, clearing) < most or left(layers, everybody) >= most, "nobody stays who would have helped"


@settings(max_examples=200)
@given(PLACES, st.integers(1, 8), st.randoms(use_true_random=False))
def test_looks_one_after_the_other_let_no_more_begin(places: tuple[Place, ...], most: int, chance: Random) -> None:
    """As the controller does: each look sees what those before have decided."""
    now = {each.name: replace(each, leaves=False, clears=False, automatic=False) for each in places}
    limits = Limits(caches=most)
    held = sum(each.holds for each in now.values())
    for _ in range(3):
        names = list(now)
        chance.shuffle(names)
        for name in names:
            found = standing(list(now.values()), limits, Stored(), NOW)
            each = now[name]
            if name in found.going:
                now[name] = replace(each, leaves=True, clears=True)
            elif each.waits and found.refusal(each) is None:
                now[name] = replace(each, holds=True, waits=False)

    staying = [each for each in now.values() if not each.leaves]
    assert sum(each.holds for each in staying) <= max(most, held)
    waiting = [each for each in staying if each.waits]
    if waiting:
        assert sum(each.holds for each in staying) >= most
        assert not any(each.may_go and each.idle and NOW - each.used >= RECENT for each in staying)
    again = standing(list(now.values()), limits, Stored(), NOW)
    assert not again.going, "nothing has happened since"
