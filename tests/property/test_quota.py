"""Any caches under any limit: nobody has too much, nobody goes who may not, and the order of looks changes nothing."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from imagecache.controller.quota import RECENT, Limits, Place, standing

NOW = dt.datetime(2024, 5, 1, 12, 0, 0, tzinfo=dt.UTC)
MINUTES = st.integers(0, 30).map(lambda minutes: NOW - dt.timedelta(minutes=minutes))


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
STORED = st.sampled_from([0, 99, 100, 101])


@given(PLACES, LIMITS, STORED, st.randoms(use_true_random=False))
def test_the_answers_fit_each_other(places: tuple[Place, ...], limits: Limits, stored: int, chance: Random) -> None:
    found = standing(places, limits, stored, NOW)
    by_name = {each.name: each for each in places}
    shuffled = list(places)
    chance.shuffle(shuffled)
    assert standing(shuffled, limits, stored, NOW) == found

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
            found = standing(list(now.values()), limits, 0, NOW)
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
    again = standing(list(now.values()), limits, 0, NOW)
    assert not again.going, "nothing has happened since"
