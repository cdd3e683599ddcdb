"""Layers that cost more than they are: refused early. Honest ones pass, whatever their size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imagecache.errors import LimitExceeded
from imagecache.layer.assemble import assemble
from imagecache.layer.budget import Budget
from imagecache.layer.implied_directories import resolve_implied
from imagecache.layer.tar_sources import ChunkSource
from imagecache.limits import DEFAULT
from imagecache.tree import Inode
from testkit.costly_tars import COSTLY
from testkit.tars import DIRECTORY, Entry, grow, tar

SMALL = replace(DEFAULT, tree_bytes=DEFAULT.tree_bytes // 20, tree_steps=DEFAULT.tree_steps // 20)
"""A twentieth, so that the inputs are small too."""


@pytest.mark.parametrize("attack", COSTLY)
def test_a_layer_that_costs_more_than_it_is(attack: str) -> None:
    costly = COSTLY[attack]
    data = tar(*costly.members(costly.count // 20 + 1))
    with pytest.raises(LimitExceeded, match=f"more than {costly.bound}") as caught:
        assemble(ChunkSource([data]), bottom=costly.bottom, limits=SMALL)
    assert "check where the image comes from" in caught.value.hint


@pytest.mark.parametrize("attack", COSTLY)
def test_a_little_of_it_is_no_attack(attack: str) -> None:
    costly = COSTLY[attack]
    data = tar(*costly.members(costly.count // 1000 + 1))
    assemble(ChunkSource([data]), bottom=costly.bottom, limits=DEFAULT)


def test_names_are_bounded_with_those_that_are_implied() -> None:
    three = replace(DEFAULT, layer_entries=3)
    grow(Entry(b"a/b/f"), limits=three)
    with pytest.raises(LimitExceeded, match="more than 3"):
        grow(Entry(b"a/b/c/f"), limits=three)
    with pytest.raises(LimitExceeded, match="more than 3"):
        grow(*(Entry(b"%d" % number) for number in range(4)), limits=three)


@pytest.mark.parametrize("bottom", [True, False])
def test_a_name_that_is_removed_again_and_again_takes_no_memory(*, bottom: bool) -> None:
    """Of 500 directories on the way, each was remembered as a text for each removal."""
    nested = b"/".join([b"a"] * 500)
    members = [Entry(b"s", b"2", pax={b"linkpath": b"/" + nested}), Entry(b"x", pax={b"path": nested + b"/f"})]
    tree = grow(*members, *[Entry(b"s/f")] * 20_000, bottom=bottom)
    assert tree.entries == 502


def test_an_entry_brings_its_allowance() -> None:
    budget = Budget(replace(DEFAULT, tree_bytes=10, entry_bytes=5, tree_steps=10, entry_steps=5))
    budget.keep(10)
    budget.step(10)
    for count in (budget.keep, budget.step):
        with pytest.raises(LimitExceeded):
            count(1)
    for _ in range(2):
        budget.enter()
    budget.keep(9)
    budget.step(9)
    for count in (budget.keep, budget.step):
        with pytest.raises(LimitExceeded):
            count(1)


class Lower:
    """A layer below with every directory; it counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def root(self) -> Inode:
        return Inode(0o040755)

    def child(self, directory: Inode, name: bytes) -> Inode | None:
        del directory, name
        self.asked += 1
        return Inode(0o040755)


def test_layers_below_are_asked_once_for_each_directory() -> None:
    nested = b"/".join([b"a"] * 200)
    tree = grow(*(Entry(b"x", pax={b"path": nested + b"/%d/f" % number}) for number in range(300)))
    lower = Lower()
    resolve_implied(tree, [lower])
    assert lower.asked == 500


def test_lookups_in_layers_below_are_bounded() -> None:
    tree = grow(*(Entry(b"%d/f" % number) for number in range(300)))
    lowers = [Lower(), Lower()]
    with pytest.raises(LimitExceeded, match="more than lower_lookups, 299"):
        resolve_implied(tree, lowers, replace(DEFAULT, lower_lookups=299))
    resolve_implied(tree, lowers, replace(DEFAULT, lower_lookups=300))


def test_an_honest_layer_uses_next_to_nothing_of_the_budget() -> None:
    """As Debian packages are: every directory has an entry, names are short."""
    tight = replace(DEFAULT, tree_bytes=1, tree_steps=1, entry_bytes=1, entry_steps=2)
    members: list[Entry | bytes] = []
    for package in range(50):
        members.append(Entry(b"usr/share/%d" % package, DIRECTORY))
        members += [Entry(b"usr/share/%d/%d" % (package, number)) for number in range(50)]
    grow(Entry(b"usr", DIRECTORY), Entry(b"usr/share", DIRECTORY), *members, limits=tight)
