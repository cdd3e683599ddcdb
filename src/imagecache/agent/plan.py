"""What a node does next, decided from what is observed. Pure.

Level-triggered: a plan is made whenever something has changed, from the present state alone. ``jobs`` carries it out
and starts nothing for a bundle that is busy. What is wrong with one cache changes nothing for the others, except that
they share the disk.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from imagecache.agent import budget
from imagecache.agent.budget import Candidate, Decision, Disk, Part, Policy, Refused, Resident, unpacked_sizes
from imagecache.agent.dependencies import Inventory
from imagecache.agent.state import Known
from imagecache.api import assignment
from imagecache.api.assignment import Cache
from imagecache.containerd.handlers import Handlers
from imagecache.oci.descriptor import Platform
from imagecache.store.bundle_document import Bundle
from imagecache.store.layer_name import LayerName


class JobKind(enum.Enum):
    """What a job does with its bundle."""

    DESCRIBE = "describe"
    FETCH = "fetch"
    ATTACH = "attach"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class View:
    """The observed state of a node: everything that a plan is made from. Collections of text are bundle ids."""

    caches: Sequence[Cache] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    """None: not known."""
    inventory: Inventory = field(default_factory=Inventory)
    known: Mapping[str, Known] = field(default_factory=dict)
    """Every bundle that is attached, or was about to be."""
    attached: Collection[str] = ()
    """As their caches and runtime handlers ask for it now."""
    handlers: Handlers = field(default_factory=Handlers)
    begun: Mapping[Part, int] = field(default_factory=dict)
    """Bytes of what attaches that run, or have failed, have unpacked."""
    busy: Mapping[str, JobKind] = field(default_factory=dict)
    waiting: Collection[str] = ()
    """Not tried for now: they have failed, or their records are removed again and again."""
    disk: Disk | None = None
    """None: bundles take no space of this node, so nothing is refused or evicted."""
    in_use: Collection[Part] = ()
    """Mounted for containers."""
    prefetching: Collection[str] = ()
    prefetch_waiting: Collection[str] = ()
    """Builds whose prefetch has failed and is not tried for now."""
    settling: bool = False
    """Bytes of the last eviction are not free yet, so nothing more is evicted."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many at a time."""

    describe: int = 8
    prefetch: int = 2
    """Builds."""
    fetch: int = 2
    """Bundles; each transfers several layers at a time. Few, so that the first is ready early."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Bundle ids."""

    assigned: Mapping[str, Cache] = field(default_factory=dict)
    """Every bundle that belongs on this node, with its cache."""
    describe: tuple[str, ...] = ()
    fetch: tuple[str, ...] = ()
    prefetch: tuple[str, ...] = ()
    """Builds that are prefetched; also those that became bundles and are being fetched, until these are whole."""
    spare: int = 0
    """Bytes that prefetches may take."""
    attach: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    """No longer assigned."""
    evict: tuple[str, ...] = ()
    """Removed because their space is needed."""
    stop: tuple[str, ...] = ()
    """Their job has no purpose any longer."""
    refused: Mapping[str, Refused] = field(default_factory=dict)
    """They do not fit."""


def make_plan(view: View, policy: Policy, bounds: Bounds | None = None) -> Plan:
    bounds = bounds or Bounds()
    resident = view.inventory.whole | view.known.keys()
    assigned = assignment.assigned(view.caches, view.labels, resident, view.platform)
    decision = _budget(view, assigned, policy)
    crowded = _is_crowded(view, decision)
    evict = () if view.settling or crowded else tuple(name for name in decision.evict if name not in view.busy)
    missing = (name for name in decision.fetch if name not in view.busy and name not in view.inventory.whole)
    fetch = _by_priority(assigned, missing)
    return Plan(
        assigned=assigned,
        describe=_describe(view, assigned, bounds.describe),
        fetch=_limited(view, JobKind.FETCH, bounds.fetch, fetch),
        prefetch=_prefetch(view, assigned, decision, bounds.prefetch, crowded=crowded),
        spare=decision.spare,
        attach=tuple(
            name
            for name, cache in assigned.items()
            if _is_attachable(view, name)
            and _is_free(view, name)
            and name not in evict
            and (not _new_unpacks(view, name, cache) or name in decision.fetch)
        ),
        remove=_remove(view, assigned, resident),
        evict=evict,
        stop=tuple(name for name, kind in view.busy.items() if name not in assigned and kind is not JobKind.REMOVE),
        refused={refusal.id: refusal for refusal in decision.refused},
    )


def _is_attachable(view: View, name: str) -> bool:
    return name in view.inventory.whole and name not in view.attached


def _new_unpacks(view: View, name: str, cache: Cache) -> frozenset[str]:
    """Snapshotters into which the next attach unpacks the bundle, and which do not have it yet."""
    return view.handlers.unpacked(cache.also_unpack) - view.known.get(name, Known()).unpacked


def _is_free(view: View, name: str) -> bool:
    return name not in view.busy and name not in view.waiting


def _limited(view: View, kind: JobKind, most: int, names: Iterable[str]) -> tuple[str, ...]:
    running = sum(each is kind for each in view.busy.values())
    return tuple(names)[: max(0, most - running)]


def _describe(view: View, assigned: Mapping[str, Cache], most: int) -> tuple[str, ...]:
    unknown = [name for name in assigned if name not in view.inventory.documents and _is_free(view, name)]
    return _limited(view, JobKind.DESCRIBE, most, _by_priority(assigned, unknown))


def _prefetch(
    view: View, assigned: Mapping[str, Cache], decision: Decision, most: int, *, crowded: bool
) -> tuple[str, ...]:
    if view.disk is None:
        return ()  # where bundles take no space of this node, there is nothing to fetch
    building = {} if crowded else assignment.prefetchable(view.caches, view.labels, view.platform)
    refused = {refusal.id for refusal in decision.refused}
    fetched = assigned.keys() - view.inventory.whole - refused
    staying = [name for name in view.prefetching if name in building or name in fetched]
    known = {*view.inventory.whole, *view.prefetch_waiting, *staying}
    # While a bundle waits for a collection nothing new begins: the prefetch that gave way to it would start again,
    # lease its layers again, and the collection would free nothing.
    may_begin = decision.spare and not decision.waiting
    new = [name for name in _by_priority(building, building) if name not in known] if may_begin else []
    return (*staying, *new[: max(0, most - len(staying))])


def _is_crowded(view: View, decision: Decision) -> bool:
    """Whether prefetched layers take space that a bundle needs: they give way before anything is evicted."""
    needed = _needed(view)
    prefetched = sum(size for name, size in view.inventory.prefetched.items() if name not in needed)
    short = any(refusal.needed <= refusal.available + prefetched for refusal in decision.refused)
    return prefetched > 0 and (short or bool(decision.evict))


def _by_priority(caches: Mapping[str, Cache], names: Iterable[str]) -> list[str]:
    """Of equal priority, the one that was created first comes first."""
    return sorted(names, key=lambda name: (-caches[name].priority, caches[name].created, name))


def _remove(view: View, assigned: Mapping[str, Cache], resident: Collection[str]) -> tuple[str, ...]:
    """Bundles of no cache; but one that a newer bundle of its cache replaces serves until that is usable."""
    replacing = {cache.name for name, cache in assigned.items() if not _is_usable(view, name)}
    unassigned = [name for name in resident if name not in assigned and _is_free(view, name)]
    return tuple(sorted(name for name in unassigned if not replacing & view.known.get(name, Known()).caches))


def _is_usable(view: View, name: str) -> bool:
    return name in view.attached and name in view.inventory.whole


def _budget(view: View, assigned: Mapping[str, Cache], policy: Policy) -> Decision:
    candidates = _candidates(view, assigned)
    if view.disk is None:
        return Decision(fetch=tuple(each.id for each in candidates))
    inventory, garbage = view.inventory, _garbage(view)
    present = _unpacked(view)
    for name, size in [*inventory.partial.items(), *inventory.present.items()]:
        present[name] = size
    situation = budget.Situation(
        disk=view.disk,
        residents=[_resident(view, assigned, name) for name in sorted(inventory.whole)],
        candidates=candidates,
        present=present,
        in_use=view.in_use,
    )
    if not garbage:
        return budget.decide(situation, policy)
    # Decided twice: what the next collection frees is no reason to evict or refuse anything, but a fetch begins only
    # when its bytes are free already.
    rest = {name: size for name, size in situation.present.items() if name not in garbage}
    disk = replace(view.disk, free=view.disk.free + sum(garbage.values()))
    later = budget.decide(replace(situation, disk=disk, present=rest), policy)
    now = budget.decide(replace(situation, residents=()), policy)
    fetch = tuple(name for name in later.fetch if name in now.fetch)
    waiting = (*later.waiting, *(name for name in later.fetch if name not in now.fetch))
    return replace(later, fetch=fetch, waiting=waiting, spare=now.spare)


def _garbage(view: View) -> dict[LayerName, int]:
    """Layer images that the next collection removes."""
    staying = _needed(view) | view.inventory.leased
    return {name: size for name, size in view.inventory.present.items() if name not in staying}


def _needed(view: View) -> set[LayerName]:
    """Layer images of bundles that are on the node or being fetched."""
    documents = view.inventory.documents
    staying = view.inventory.whole | {name for name, kind in view.busy.items() if kind is JobKind.FETCH}
    return {layer for name in staying & documents.keys() for layer in documents[name].layer_names()}


def _unpacked(view: View) -> dict[Part, int]:
    """What other snapshotters have of the bundles."""
    documents = view.inventory.documents
    return {**view.begun} | {
        part: size
        for name, known in view.known.items()
        if name in documents
        for part, size in unpacked_sizes(documents[name], known.unpacked).items()
    }


def _candidates(view: View, assigned: Mapping[str, Cache]) -> list[Candidate]:
    """What takes space: a bundle that is to be fetched, or to be unpacked into another snapshotter."""
    return [
        _candidate(view, name, cache)
        for name, cache in assigned.items()
        if name in view.inventory.documents
        and name not in view.waiting
        and (name not in view.inventory.whole or (_is_attachable(view, name) and _new_unpacks(view, name, cache)))
    ]


def _candidate(view: View, name: str, cache: Cache) -> Candidate:
    document = view.inventory.documents[name]
    unpacks = unpacked_sizes(document, _new_unpacks(view, name, cache))
    return Candidate(
        id=name,
        layers=_sizes(document) | unpacked_sizes(document, view.handlers.unpacked(cache.also_unpack)),
        priority=cache.priority,
        created=cache.created,
        last_used=view.known.get(name, Known()).last_used,
        running=view.busy.get(name) in {JobKind.FETCH, JobKind.ATTACH},
        transient=max((size for part, size in unpacks.items() if part not in view.begun), default=0),
    )


def _resident(view: View, assigned: Mapping[str, Cache], name: str) -> Resident:
    cache, document = assigned.get(name), view.inventory.documents[name]
    known = view.known.get(name, Known())
    return Resident(
        id=name,
        layers=_sizes(document) | unpacked_sizes(document, known.unpacked),
        priority=cache.priority if cache else 0,
        last_used=max(known.last_used, cache.created) if cache else known.last_used,
        assigned=cache is not None,
    )


def _sizes(document: Bundle) -> dict[Part, int]:
    return {layer.name: layer.size for image in document.images for layer in image.layers}
