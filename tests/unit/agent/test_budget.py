"""What fits, what is evicted for it, what is refused: situations in units, on a disk of 100 of which 17 stay free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from imagecache.agent.budget import Candidate, Decision, Disk, Part, Refused, Resident, Situation, decide
from imagecache.digest import Digest
from imagecache.errors import NoSpace
from imagecache.fetch.allowance import Allowance
from imagecache.store.layer_name import LayerName, Space


def layers(text: str) -> dict[Part, int]:
    """``"base:10 app:5"``."""
    found: dict[Part, int] = {}
    for part in text.split():
        name, size = part.split(":")
        found[LayerName(Space.LAYERS, Digest.sha256(name.encode()))] = int(size)
    return found


def resident(name: str, text: str, *, priority: int = 0, used: float = 0, assigned: bool = True) -> Resident:
    return Resident(name, layers(text), priority, used, assigned)


def candidate(
    name: str, text: str, *, priority: int = 0, created: float = 0, used: float = 0, running: bool = False
) -> Candidate:
    return Candidate(name, layers(text), priority, created, used, running)


@dataclass(frozen=True)
class Case:
    free: int
    candidates: Sequence[Candidate] = ()
    residents: Sequence[Resident] = ()
    expected: Decision = field(default_factory=Decision)
    partial: str = ""
    in_use: str = ""


CASES = {
    "nothing": Case(100),
    "fits": Case(90, [candidate("a", "x:50")], expected=Decision(fetch=("a",))),
    "to-the-last-byte": Case(67, [candidate("a", "x:50")], expected=Decision(fetch=("a",))),
    "one-byte-too-much": Case(66, [candidate("a", "x:50")], expected=Decision(refused=(Refused("a", 50, 49),))),
    "what-is-here-is-not-fetched": Case(27, [candidate("a", "x:50")], partial="x:40", expected=Decision(fetch=("a",))),
    "what-is-stored-meanwhile-needs-space-too": Case(
        66, [replace(candidate("a", "x:40"), transient=10)], expected=Decision(refused=(Refused("a", 50, 49),))
    ),
    "two-share-a-layer": Case(
        37,
        [candidate("a", "base:15 a:2", created=2), candidate("b", "base:15 b:3", created=1)],
        expected=Decision(fetch=("a", "b")),
    ),
    "the-newer-goes-first": Case(
        37,
        [candidate("old", "a:15", created=1), candidate("new", "b:15", created=2)],
        expected=Decision(fetch=("new",), refused=(Refused("old", 15, 5),)),
    ),
    "priority-goes-before-age": Case(
        37,
        [candidate("old", "a:15", created=1, priority=1), candidate("new", "b:15", created=2)],
        expected=Decision(fetch=("old",), refused=(Refused("new", 15, 5),)),
    ),
    "a-smaller-one-still-fits": Case(
        27,
        [candidate("big", "a:15", created=2), candidate("small", "b:10", created=1)],
        expected=Decision(fetch=("small",), refused=(Refused("big", 15, 10),)),
    ),
    "running-is-never-refused": Case(16, [candidate("a", "x:50", running=True)], expected=Decision(fetch=("a",))),
    "less-worth-is-given-up": Case(
        20,
        [candidate("new", "n:10", created=9)],
        [resident("old", "o:20", used=1), resident("older", "p:20", used=0.5)],
        expected=Decision(evict=("older",), waiting=("new",)),
    ),
    "more-worth-stays": Case(
        20,
        [candidate("new", "n:10", created=1)],
        [resident("used", "o:20", used=5)],
        expected=Decision(refused=(Refused("new", 10, 3),)),
    ),
    "unwanted-goes-before-everything": Case(
        20,
        [candidate("new", "n:10")],
        [resident("gone", "o:20", used=99, priority=9, assigned=False), resident("old", "p:20")],
        expected=Decision(evict=("gone",), waiting=("new",)),
    ),
    "as-few-as-will-do": Case(
        20,
        [candidate("new", "n:20", created=9)],
        [resident("tiny", "t:1", used=1), resident("big", "b:20", used=2)],
        expected=Decision(evict=("big",), waiting=("new",)),
    ),
    "a-shared-layer-frees-nothing": Case(
        20,
        [candidate("new", "n:10", created=3)],
        [resident("one", "base:20", used=1), resident("two", "base:20", used=5)],
        expected=Decision(refused=(Refused("new", 10, 3),)),
    ),
    "what-it-needs-itself-frees-nothing": Case(
        20,
        [candidate("new", "base:20 n:10", created=9)],
        [resident("old", "base:20", used=1)],
        expected=Decision(refused=(Refused("new", 10, 3),)),
    ),
    "layers-of-containers-free-nothing": Case(
        20,
        [candidate("new", "n:10", created=9)],
        [resident("old", "o:20", used=1)],
        in_use="o:20",
        expected=Decision(refused=(Refused("new", 10, 3),)),
    ),
    "others-filled-the-disk": Case(
        10,
        residents=[resident("used", "a:20", used=9), resident("old", "b:20", used=1)],
        expected=Decision(evict=("old",)),
    ),
    "others-filled-it-and-nothing-helps": Case(
        10, residents=[resident("old", "b:20", used=1)], in_use="b:20", expected=Decision()
    ),
    "what-fits-without-waits-too-when-something-goes": Case(
        20,
        [candidate("new", "n:10", created=9), candidate("small", "s:1", created=1)],
        [resident("old", "o:20", used=2)],
        expected=Decision(evict=("old",), waiting=("new", "small")),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_decision(name: str) -> None:
    case = CASES[name]
    present = {name: size for each in case.residents for name, size in each.layers.items()}
    situation = Situation(
        Disk(100, case.free),
        case.residents,
        case.candidates,
        present | layers(case.partial),
        layers(case.in_use).keys(),
    )

    assert replace(decide(situation), spare=0) == case.expected


@pytest.mark.parametrize(
    ("free", "candidates", "spare"),
    [
        (90, [], 73),
        (90, [candidate("a", "x:50")], 23),
        (90, [candidate("a", "x:99")], 73),
        (17, [], 0),
        (10, [candidate("a", "x:50", running=True)], 0),
    ],
    ids=["what-need-not-stay-free", "less-what-is-fetched", "refused-takes-nothing", "nothing", "never-less"],
)
def test_what_is_spare(free: int, candidates: list[Candidate], spare: int) -> None:
    assert decide(Situation(Disk(100, free), candidates=candidates)).spare == spare


def test_nothing_is_spare_during_an_eviction() -> None:
    old, new = resident("old", "o:50", used=1), candidate("new", "n:5", created=9)
    situation = Situation(Disk(100, 20), [old], [new], layers("o:50"))

    decision = decide(situation)

    assert (decision.evict, decision.spare) == (("old",), 0)


def test_an_allowance_is_used_up() -> None:
    allowance = Allowance(10)
    allowance.take(6)

    with pytest.raises(NoSpace):
        allowance.take(5)

    allowance.take(4)
    allowance.grant(5)
    allowance.take(5)


def test_two_bundles_never_evict_each_other() -> None:
    """Whoever was given up is worth less from then on, so the next decision is to leave things as they are."""
    old, new = resident("old", "o:20", used=5), candidate("new", "n:20", created=9)
    first = decide(Situation(Disk(100, 20), [old], [new], layers("o:20")))
    assert (first.evict, first.waiting) == (("old",), ("new",))

    back = candidate("old", "o:20", created=1)
    second = decide(Situation(Disk(100, 40), [], [back, new]))
    assert (second.fetch, [each.id for each in second.refused]) == (("new",), ["old"])

    third = decide(Situation(Disk(100, 20), [resident("new", "n:20", used=9)], [back], layers("n:20")))
    assert (third.evict, third.fetch) == ((), ())
