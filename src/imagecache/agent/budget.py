"""Which bundles a node fetches and which it evicts, decided from sizes before the first byte. Pure.

Kubelet taints a node and evicts pods when less than 15 % of its image filesystem is free (``imagefs.available``), and
deletes images when more than 85 % is used. Caches stay clear of both: a fetch must leave ``reserve`` and some headroom.

Every bundle has a worth: its cache's priority, then when it was last used (a new one: when its cache was created). Only
bundles that are worth less are evicted for another one, the least first, so two bundles never evict each other in
turns. Those that are no longer assigned are evicted before all others. A layer counts as freed only when no bundle that
stays needs it and no container uses it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from imagecache.containerd.api import UnpackedChain
from imagecache.store.bundle_document import Bundle
from imagecache.store.layer_name import LayerName

Part = LayerName | UnpackedChain
"""What takes space of a bundle: a layer image, or a layer that is unpacked too."""


def unpacked_sizes(document: Bundle, snapshotters: Iterable[str]) -> dict[Part, int]:
    """Bytes of what a bundle has in these snapshotters; a layer is taken to need what its tar has."""
    layers = {layer.chain_id: layer.tar_size for image in document.images for layer in image.layers}
    return {UnpackedChain(name, chain): size for name in snapshotters for chain, size in layers.items()}


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of the filesystem that holds the store."""

    capacity: int
    free: int


@dataclass(frozen=True, slots=True)
class Resident:
    """A bundle that is on the node."""

    id: str
    layers: Mapping[Part, int]
    """Bytes on this disk, by layer image and unpacked layer."""
    priority: int = 0
    last_used: float = 0.0
    """Seconds since the epoch."""
    assigned: bool = True
    """It belongs to a cache that is assigned to this node."""

    @property
    def worth(self) -> tuple[bool, int, float, str]:
        return (self.assigned, self.priority, self.last_used, self.id)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bundle that is assigned to the node and not whole on it."""

    id: str
    layers: Mapping[Part, int]
    """Bytes of each layer image, fetched already or not, and of each layer that attaching unpacks."""
    priority: int = 0
    created: float = 0.0
    """Of the cache, seconds since the epoch."""
    last_used: float = 0.0
    """When a container last used it on this node; 0 when none did."""
    running: bool = False
    """Its fetch, or its unpacking, has begun: it is decided first, since part of its space is taken."""
    transient: int = 0
    """Bytes that are needed meanwhile only: a tar is stored a second time while it is unpacked."""

    @property
    def worth(self) -> tuple[bool, int, float, str]:
        return (True, self.priority, self.last_used or self.created, self.id)


@dataclass(frozen=True, slots=True)
class Policy:
    """Shares of the capacity."""

    reserve: float = 0.15
    """Kubelet's eviction threshold for ``imagefs.available``."""
    headroom: float = 0.02
    """Left free by fetches in addition, so that small writes of other programs do not cross the threshold."""


@dataclass(frozen=True, slots=True)
class Situation:
    disk: Disk
    residents: Sequence[Resident] = ()
    candidates: Sequence[Candidate] = ()
    present: Mapping[Part, int] = field(default_factory=dict)
    """Bytes on this disk of every layer image, also of those that are being fetched, and of unpacked layers."""
    in_use: Collection[Part] = ()
    """Mounted for containers."""


@dataclass(frozen=True, slots=True)
class Refused:
    id: str
    needed: int
    """Bytes to fetch and to unpack."""
    available: int
    """Bytes that would be free after evicting everything that is worth less."""


@dataclass(frozen=True, slots=True)
class Decision:
    fetch: tuple[str, ...] = ()
    """Ids that fit, in the order of worth."""
    evict: tuple[str, ...] = ()
    """Ids to evict first."""
    refused: tuple[Refused, ...] = ()
    waiting: tuple[str, ...] = ()
    """Ids that fit once an eviction or a collection has freed its space: they are decided again then."""
    spare: int = 0
    """Free bytes beyond what must stay free and what is being fetched."""


class _DiskState:
    """The disk as it will be, updated with each part of the decision."""

    def __init__(self, situation: Situation, policy: Policy) -> None:
        self.spare = situation.disk.free - math.ceil(situation.disk.capacity * (policy.reserve + policy.headroom))
        self.residents = sorted(situation.residents, key=lambda resident: resident.worth)
        self.present = dict(situation.present)
        self.planned: dict[Part, int] = {}
        self._in_use: set[Part] = set(situation.in_use)

    def needed(self, layers: Mapping[Part, int]) -> int:
        """Bytes that are neither on the disk nor planned."""
        return sum(
            max(0, size - self.present.get(name, 0)) for name, size in layers.items() if name not in self.planned
        )

    def freed(self, victims: Sequence[Resident], kept: Mapping[Part, int]) -> int:
        """Bytes that evicting these frees, without the layers in ``kept``."""
        evicted = {resident.id for resident in victims}
        staying = self._in_use | self.planned.keys() | kept.keys()
        for resident in self.residents:
            if resident.id not in evicted:
                staying |= resident.layers.keys()
        layers = {name for resident in victims for name in resident.layers}
        return sum(self.present.get(name, 0) for name in layers if name not in staying)

    def evict(self, victims: Sequence[Resident], kept: Mapping[Part, int]) -> None:
        self.spare += self.freed(victims, kept)
        evicted = {resident.id for resident in victims}
        self.residents = [resident for resident in self.residents if resident.id not in evicted]


def decide(situation: Situation, policy: Policy | None = None) -> Decision:
    """Which bundles to fetch, to evict and to refuse."""
    policy = policy or Policy()
    state = _DiskState(situation, policy)
    evict = _shed(state, situation.disk, policy)
    fetch: list[str] = []
    waiting: list[str] = []
    refused: list[Refused] = []
    for candidate in _ranked(situation.candidates):
        needed = state.needed(candidate.layers) + candidate.transient
        victims = _victims(state, candidate, needed)
        if victims is None:
            refused.append(Refused(candidate.id, needed, _most(state, candidate)))
            continue
        state.evict(victims, candidate.layers)
        state.spare -= needed
        state.planned.update(candidate.layers)
        evict += [victim.id for victim in victims]
        # once something is evicted, all that follow wait: the bytes are free only after containers and collections
        (waiting if evict and not candidate.running else fetch).append(candidate.id)
    spare = 0 if evict else max(0, state.spare)  # what is being freed is not free yet
    return Decision(tuple(fetch), tuple(evict), tuple(refused), tuple(waiting), spare)


def _ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Running ones first, then by worth: an evicted bundle never returns before the one that it was evicted for."""
    return sorted(candidates, key=lambda each: (each.running, each.worth), reverse=True)


def _shed(state: _DiskState, disk: Disk, policy: Policy) -> list[str]:
    """Other programs have filled the disk below the reserve: evict what is worth least, as far as that helps."""
    short = math.ceil(disk.capacity * policy.reserve) - disk.free
    victims: list[Resident] = []
    for resident in list(state.residents):
        if short <= 0:
            break
        gain = state.freed([*victims, resident], {}) - state.freed(victims, {})
        if gain > 0:
            victims.append(resident)
            short -= gain
    state.evict(victims, {})
    return [resident.id for resident in victims]


def _victims(state: _DiskState, candidate: Candidate, needed: int) -> list[Resident] | None:
    """The fewest residents whose eviction makes it fit; None when none does."""
    # one that runs was decided earlier: refusing it now would waste the bytes that it has fetched
    if needed <= state.spare or candidate.running:
        return []
    victims: list[Resident] = []
    for resident in _lesser(state, candidate):
        victims.append(resident)
        if needed <= state.spare + state.freed(victims, candidate.layers):
            return _spared(state, candidate, needed, victims)
    return None


def _spared(state: _DiskState, candidate: Candidate, needed: int, victims: list[Resident]) -> list[Resident]:
    """Without those that need not be evicted; the one that is worth most is spared first."""
    for resident in list(reversed(victims)):
        fewer = [each for each in victims if each is not resident]
        if needed <= state.spare + state.freed(fewer, candidate.layers):
            victims = fewer
    return victims


def _lesser(state: _DiskState, candidate: Candidate) -> list[Resident]:
    return [resident for resident in state.residents if resident.worth < candidate.worth]


def _most(state: _DiskState, candidate: Candidate) -> int:
    return max(0, state.spare + state.freed(_lesser(state, candidate), candidate.layers))
