"""The status of a node's NodeImageCache, from the facts that the loop has observed. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import msgspec

from imagecache.agent.budget import Disk, Part, Policy, Refused, unpacked_sizes
from imagecache.agent.dependencies import Inventory
from imagecache.agent.failures import Failure
from imagecache.agent.names import names_taken
from imagecache.agent.plan import JobKind
from imagecache.api import columns, times
from imagecache.api.assignment import Cache
from imagecache.api.nodes import NAME_TAKEN, CacheState, NodeCache, NodeStatus
from imagecache.api.phases import set_condition
from imagecache.api.types import Condition
from imagecache.containerd.api import Attached
from imagecache.errors import ContainerdUnavailable, ImageCacheError, StoreRefused, StoreUnreachable
from imagecache.store.bundle_document import Bundle
from imagecache.store.layer_name import LayerName
from imagecache.written import explained, printable

NO_SPACE = "InsufficientSpace"
RECORDS_REMOVED = "RecordsRemoved"
HANDLERS_SERVED = "HandlersServed"
_REMOVED_TEXT = "the runtime's records were deleted several times (kubelet's image collection); they will be made again"
_STORE = frozenset({StoreUnreachable.__name__, StoreRefused.__name__})
_RUNTIME = frozenset({ContainerdUnavailable.__name__})
_MOVED = 0.01
"""Share of the capacity by which free or used bytes must differ to be worth a report of their own."""


@dataclass(frozen=True, slots=True)
class Facts:
    mode: str
    assigned: Mapping[str, Cache] = field(default_factory=dict)
    """By bundle id."""
    inventory: Inventory = field(default_factory=Inventory)
    attached: Mapping[str, Attached] = field(default_factory=dict)
    """By bundle id."""
    running: Mapping[str, JobKind] = field(default_factory=dict)
    progress: Mapping[str, int] = field(default_factory=dict)
    """Bytes on this node of what is being fetched."""
    failures: Mapping[str, Failure] = field(default_factory=dict)
    removed: Collection[str] = ()
    """Ids whose records are not made again for now."""
    refused: Mapping[str, Refused] = field(default_factory=dict)
    disk: Disk | None = None
    policy: Policy = field(default_factory=Policy)
    problem: ImageCacheError | None = None
    """Why no plan could be made, or what the plan lacks."""


def status(facts: Facts, before: NodeStatus, now: dt.datetime) -> NodeStatus:
    """The status now. ``before`` is the last one: conditions that did not change keep their time."""
    entries = (_entry(facts, name, cache) for name, cache in facts.assigned.items())
    disk = facts.disk or Disk(0, 0)
    return NodeStatus(
        mode=facts.mode,
        capacity_bytes=usable(disk, facts.policy),
        used_bytes=sum(facts.inventory.present.values())
        + sum(facts.inventory.partial.values())
        + sum(_unpacked(facts, *facts.attached).values()),
        free_bytes=disk.free,
        caches=tuple(sorted(entries, key=lambda entry: entry.name)),
        conditions=_conditions(facts, before.conditions, now),
    )


def usable(disk: Disk, policy: Policy) -> int:
    """Bytes for caches if nothing else were on the disk."""
    return int(disk.capacity * (1 - policy.reserve - policy.headroom))


def differs(new: NodeStatus, old: NodeStatus) -> bool:
    """Whether it is worth a report: small changes of the disk's free bytes are not."""
    # every report is a write to the API server, and other programs change the disk all the time
    small = max(new.capacity_bytes * _MOVED, 1)
    moved = max(abs(new.free_bytes - old.free_bytes), abs(new.used_bytes - old.used_bytes)) >= small
    return moved or _without_bytes(new) != _without_bytes(old)


def _without_bytes(status: NodeStatus) -> NodeStatus:
    return msgspec.structs.replace(status, free_bytes=0, used_bytes=0)


def _entry(facts: Facts, name: str, cache: Cache) -> NodeCache:
    document = facts.inventory.documents.get(name)
    total, done = _bytes(facts, name, document) if document else (0, 0)
    state, reason, message = _state(facts, name)
    attached = facts.attached.get(name)
    return NodeCache(
        name=cache.name,
        id=name,
        state=state,
        bytes_total=total,
        bytes_done=done,
        unpacked_into=tuple(sorted(attached.unpacked)) if attached else (),
        unpacked_bytes=sum(_unpacked(facts, name).values()),
        reason=reason,
        message=printable(message),
    )


def _unpacked(facts: Facts, *names: str) -> dict[Part, int]:
    """What other snapshotters have of these bundles, each layer once."""
    documents, found = facts.inventory.documents, dict[Part, int]()
    for name in names:
        if name in documents and name in facts.attached:
            found |= unpacked_sizes(documents[name], facts.attached[name].unpacked)
    return found


def _bytes(facts: Facts, name: str, document: Bundle) -> tuple[int, int]:
    layers: dict[LayerName, int] = {layer.name: layer.size for image in document.images for layer in image.layers}
    total = sum(layers.values())
    if name in facts.inventory.whole:
        return total, total
    if name in facts.progress:  # fresher than the inventory of the last round
        return total, facts.progress[name]
    found = {**facts.inventory.partial, **facts.inventory.present}
    return total, sum(min(size, found.get(layer, 0)) for layer, size in layers.items())


def _state(facts: Facts, name: str) -> tuple[CacheState, str, str]:
    """State, reason and message."""
    failure, refused = facts.failures.get(name), facts.refused.get(name)
    if name in facts.attached and name in facts.inventory.whole:
        attached = facts.attached[name]
        return CacheState.READY, NAME_TAKEN if attached.taken else "", not_attached(attached)
    # a failure is shown until its retry has come further, so that the state does not flicker with each retry
    if failure is not None and facts.progress.get(name, 0) <= failure.done:
        state = CacheState.PENDING if failure.temporary else CacheState.FAILED
        return state, failure.reason, explained(failure.message, failure.hint)
    if name in facts.removed:
        return CacheState.PENDING, RECORDS_REMOVED, _REMOVED_TEXT
    if facts.running.get(name) in {JobKind.FETCH, JobKind.ATTACH}:
        return CacheState.FETCHING, "", ""
    if refused is not None:
        return _refused(facts, refused)
    return CacheState.PENDING, "", ""


def not_attached(attached: Attached) -> str:
    """Which images have no record and why that is right, for people; empty when all have one."""
    notes = []
    if attached.taken:
        notes.append(names_taken(attached.taken))
    if attached.pinned:
        notes.append(f"names that the node has pinned, so they stay what they are: {', '.join(attached.pinned)}")
    if attached.withheld:
        notes.append(f"private, so pods pull manifest and config with their own secret: {', '.join(attached.withheld)}")
    if attached.unverified:
        notes.append(
            f"from a registry that nobody has verified, so pods pull the names: {', '.join(attached.unverified)}"
        )
    if attached.reserved:
        notes.append(f"names that no cache may record, so pods pull them: {', '.join(attached.reserved)}")
    if attached.missed:
        notes.append(f"native mode cannot serve every layer, pods pull the rest: {', '.join(attached.missed)}")
    return "; ".join(notes)


def _refused(facts: Facts, refused: Refused) -> tuple[CacheState, str, str]:
    most = usable(facts.disk, facts.policy) if facts.disk else 0
    words = f"{columns.size(refused.needed)} needed, {columns.size(refused.available)} available"
    if refused.needed > most:
        return CacheState.FAILED, NO_SPACE, f"{words}; it never fits: this node has {columns.size(most)} for caches"
    reserve, headroom = (round(100 * share) for share in (facts.policy.reserve, facts.policy.headroom))
    kept = f"{reserve + headroom} % of the disk must stay free (reserve: {reserve} %, headroom: {headroom} %)"
    return CacheState.PENDING, NO_SPACE, f"{words}, since {kept}; waiting for space"


def _conditions(facts: Facts, before: tuple[Condition, ...], now: dt.datetime) -> tuple[Condition, ...]:
    problem = facts.problem
    store = next((each for each in facts.failures.values() if each.reason in _STORE), None)
    runtime = next((each for each in facts.failures.values() if each.reason in _RUNTIME), None)
    broken = problem is not None and problem.reason in _RUNTIME
    refused = ", ".join(sorted(facts.assigned[name].name for name in facts.refused if name in facts.assigned))
    removed = ", ".join(sorted(facts.assigned[name].name for name in facts.removed if name in facts.assigned))
    outcomes = {
        "Ready": ("False", problem.reason, str(problem)) if problem else ("True", "Working", ""),
        "StoreReachable": ("False", store.reason, store.message) if store else ("True", "AsExpected", ""),
        "RuntimeReachable": ("True", "AsExpected", ""),
        NO_SPACE: ("True", "DiskBudget", f"no space for {refused}") if refused else ("False", "AsExpected", ""),
        RECORDS_REMOVED: ("True", "ImageCollection", f"{removed}: {_REMOVED_TEXT}")
        if removed
        else ("False", "AsExpected", ""),
        HANDLERS_SERVED: _handlers(facts),
        NAME_TAKEN: _names(facts),
    }
    if runtime is not None:
        outcomes["RuntimeReachable"] = ("False", runtime.reason, runtime.message)
    elif broken and problem is not None:
        outcomes["RuntimeReachable"] = ("False", problem.reason, str(problem))
    conditions = before
    for kind, (value, reason, message) in outcomes.items():
        conditions = set_condition(conditions, _condition(kind, value, reason, message, now))
    return conditions


def _handlers(facts: Facts) -> tuple[str, str, str]:
    """Status, reason and message: which runtime handlers cannot start which caches."""
    lacking = {
        facts.assigned[name].name: attached.left_out
        for name, attached in facts.attached.items()
        if attached.left_out and name in facts.assigned
    }
    if not lacking:
        return "True", "AsExpected", ""
    handlers = ", ".join(sorted({handler for each in lacking.values() for handler in each}))
    caches = ", ".join(sorted(lacking))
    words = f"pods of the runtime handlers {handlers} cannot start images of {caches}: their snapshotter has no layers"
    return (
        "False",
        "AlsoUnpackOff",
        f"{words}; set also_unpack to auto, or correct the annotation imagecache.dev/also-unpack of these caches",
    )


def _names(facts: Facts) -> tuple[str, str, str]:
    """Status, reason and message: which caches have lost names to others."""
    losing = sorted(
        facts.assigned[name].name for name, each in facts.attached.items() if each.taken and name in facts.assigned
    )
    if not losing:
        return "False", "AsExpected", ""
    return "True", "NameOwned", f"another ImageCache owns names of {', '.join(losing)}; see their message"


def _condition(kind: str, value: str, reason: str, message: str, now: dt.datetime) -> Condition:
    return Condition(
        type=kind,
        status=value,
        reason=reason,
        message=printable(message),
        last_transition_time=times.render(now),
        observed_generation=0,
    )
