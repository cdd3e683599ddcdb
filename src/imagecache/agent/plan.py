"""What a node should do next, from what is. Pure.

Level-style: it never asks what happened. A plan is made whenever something has changed, and carried out by ``loop``,
which starts nothing for a bundle that is busy. Every cache stands for itself: what is wrong with one changes nothing
for the others, except that they share the disk.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from imagecache.agent import budget
from imagecache.agent.budget import Candidate, Decision, Disk, Policy, Refused, Resident
from imagecache.agent.dependencies import Inventory
from imagecache.api import assignment
from imagecache.api.assignment import Cache
from imagecache.store.model import Bundle, LayerName


class Work(enum.Enum):
    """What the loop does with a bundle."""

    DESCRIBE = "describe"
    FETCH = "fetch"
    ATTACH = "attach"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Known:
    """What the node remembers of a bundle that it has, or had."""

    caches: frozenset[str] = frozenset()
    """Names of the ImageCaches that it was for."""
    last_used: float = 0.0
    """When a container last started from it; seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything that a plan is made of."""

    caches: Sequence[Cache] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    inventory: Inventory = field(default_factory=Inventory)
    known: Mapping[str, Known] = field(default_factory=dict)
    """By bundle id, all that were attached or about to be."""
    attached: Collection[str] = ()
    busy: Mapping[str, Work] = field(default_factory=dict)
    waiting: Collection[str] = ()
    """Ids for which nothing is tried for now: they have failed, or their records are taken again and again."""
    disk: Disk | None = None
    """None: bundles take no space of this node, so nothing is refused or given up."""
    in_use: Collection[LayerName] = ()
    """Containers stand on them."""
    following: Collection[str] = ()
    """Ids whose builds are followed now."""
    unfollowed: Collection[str] = ()
    """Ids whose builds are not followed for now: that has failed."""
    settling: bool = False
    """Something was given up just now, and its bytes are not free yet: nothing more is given up meanwhile."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many at once."""

    describe: int = 8
    follow: int = 2
    """Builds."""
    fetch: int = 2
    """Bundles; each has several layers on their way. Few, so that the first is ready early."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Bundle ids."""

    wanted: Mapping[str, Cache] = field(default_factory=dict)
    describe: tuple[str, ...] = ()
    fetch: tuple[str, ...] = ()
    follow: tuple[str, ...] = ()
    """Bundles that come while they are built; also those that are being fetched now, until they are whole."""
    spare: int = 0
    """Bytes that these may take."""
    attach: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    """Not wanted any more."""
    evict: tuple[str, ...] = ()
    """To be given up for space."""
    stop: tuple[str, ...] = ()
    """Their work serves nobody any more."""
    refused: Mapping[str, Refused] = field(default_factory=dict)
    """No space."""


def make_plan(view: View, policy: Policy, bounds: Bounds | None = None) -> Plan:
    bounds = bounds or Bounds()
    resident = view.inventory.whole | view.known.keys()
    meant = assignment.assigned(view.caches, view.labels, resident)
    decision = _budget(view, meant, policy)
    crowded = _crowded(view, decision)
    evict = () if view.settling or crowded else tuple(name for name in decision.evict if name not in view.busy)
    return Plan(
        wanted=meant,
        describe=_describe(view, meant, bounds.describe),
        fetch=_room(view, Work.FETCH, bounds.fetch, _in_turn(meant, (n for n in decision.fetch if n not in view.busy))),
        follow=_follow(view, meant, decision, bounds.follow, crowded=crowded),
        spare=decision.spare,
        attach=tuple(
            name
            for name in meant
            if name in view.inventory.whole and name not in view.attached and _free(view, name) and name not in evict
        ),
        remove=_remove(view, meant, resident),
        evict=evict,
        stop=tuple(name for name, work in view.busy.items() if name not in meant and work is not Work.REMOVE),
        refused={refusal.id: refusal for refusal in decision.refused},
    )


def _free(view: View, name: str) -> bool:
    return name not in view.busy and name not in view.waiting


def _room(view: View, work: Work, most: int, names: Iterable[str]) -> tuple[str, ...]:
    running = sum(each is work for each in view.busy.values())
    return tuple(names)[: max(0, most - running)]


def _describe(view: View, meant: Mapping[str, Cache], most: int) -> tuple[str, ...]:
    unknown = [name for name in meant if name not in view.inventory.documents and _free(view, name)]
    return _room(view, Work.DESCRIBE, most, _in_turn(meant, unknown))


def _follow(view: View, meant: Mapping[str, Cache], decision: Decision, most: int, *, crowded: bool) -> tuple[str, ...]:
    """Where bundles take no space of this node, there is nothing to gain."""
    if view.disk is None:
        return ()
    building = {} if crowded else assignment.prefetchable(view.caches, view.labels)
    refused = {refusal.id for refusal in decision.refused}
    fetched = meant.keys() - view.inventory.whole - refused
    staying = [name for name in view.following if name in building or name in fetched]
    known = {*view.inventory.whole, *view.unfollowed, *staying}
    new = [name for name in _in_turn(building, building) if name not in known] if decision.spare else []
    return (*staying, *new[: max(0, most - len(staying))])


def _crowded(view: View, decision: Decision) -> bool:
    """What came of builds takes space that a bundle needs: it gives way before anything else does."""
    needed = _needed(view)
    ahead = sum(size for name, size in view.inventory.ahead.items() if name not in needed)
    short = any(refusal.needed <= refusal.available + ahead for refusal in decision.refused)
    return ahead > 0 and (short or bool(decision.evict))


def _in_turn(meant: Mapping[str, Cache], names: Iterable[str]) -> list[str]:
    """Of equal priority, the one that was created first begins first."""
    return sorted(names, key=lambda name: (-meant[name].priority, meant[name].created, name))


def _remove(view: View, meant: Mapping[str, Cache], resident: Collection[str]) -> tuple[str, ...]:
    """Those of no cache; but what a newer bundle of the same cache replaces serves until that is usable."""
    coming = {cache.name for name, cache in meant.items() if not _usable(view, name)}
    gone = [name for name in resident if name not in meant and _free(view, name)]
    return tuple(sorted(name for name in gone if not coming & view.known.get(name, Known()).caches))


def _usable(view: View, name: str) -> bool:
    return name in view.attached and name in view.inventory.whole


def _budget(view: View, meant: Mapping[str, Cache], policy: Policy) -> Decision:
    """Without a disk to look after everything fits."""
    candidates = _candidates(view, meant)
    if view.disk is None:
        return Decision(fetch=tuple(each.id for each in candidates))
    inventory, orphans = view.inventory, _orphans(view)
    situation = budget.Situation(
        disk=view.disk,
        residents=[_resident(view, meant, name) for name in sorted(inventory.whole)],
        candidates=candidates,
        present={**inventory.partial, **inventory.present},
        in_use=view.in_use,
    )
    if not orphans:
        return budget.decide(situation, policy)
    rest = {name: size for name, size in situation.present.items() if name not in orphans}
    disk = replace(view.disk, free=view.disk.free + sum(orphans.values()))
    later = budget.decide(replace(situation, disk=disk, present=rest), policy)
    now = budget.decide(replace(situation, residents=()), policy)
    return replace(later, fetch=tuple(name for name in later.fetch if name in now.fetch), spare=now.spare)


def _orphans(view: View) -> dict[LayerName, int]:
    """Layer images that go with the next collection: no reason to take anything else away, or to come back."""
    inventory, needed = view.inventory, _needed(view)
    return {name: size for name, size in inventory.present.items() if name not in needed and name not in inventory.held}


def _needed(view: View) -> set[LayerName]:
    """Layer images of bundles that are here or on their way."""
    documents = view.inventory.documents
    staying = view.inventory.whole | {name for name, work in view.busy.items() if work is Work.FETCH}
    return {layer for name in staying & documents.keys() for layer in documents[name].layer_names()}


def _candidates(view: View, meant: Mapping[str, Cache]) -> list[Candidate]:
    return [
        Candidate(
            id=name,
            layers=_sizes(view.inventory.documents[name]),
            priority=cache.priority,
            created=cache.created,
            last_used=view.known.get(name, Known()).last_used,
            running=view.busy.get(name) is Work.FETCH,
        )
        for name, cache in meant.items()
        if name in view.inventory.documents and name not in view.inventory.whole and name not in view.waiting
    ]


def _resident(view: View, meant: Mapping[str, Cache], name: str) -> Resident:
    cache = meant.get(name)
    used = view.known.get(name, Known()).last_used
    return Resident(
        id=name,
        layers=_sizes(view.inventory.documents[name]),
        priority=cache.priority if cache else 0,
        last_used=max(used, cache.created) if cache else used,
        wanted=cache is not None,
    )


def _sizes(document: Bundle) -> dict[LayerName, int]:
    return {layer.name: layer.size for image in document.images for layer in image.layers}
