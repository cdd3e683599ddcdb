"""What a node fetches and what it gives up, decided from sizes before the first byte. Pure.

Kubelet taints a node and evicts pods when less than 15 % of its image filesystem is free (``imagefs.available``), and
deletes images when more than 85 % is used. Caches stay clear of both: a fetch must leave ``reserve`` and some headroom.

Every cache has a worth: its priority, then when it was last used (a new one: when it was created). Space for a cache is
made only by caches that are worth less, the least first, so two caches never push each other out in turns. What is not
wanted any more goes before all others. A layer counts as freed only when nothing that stays needs it and no container
uses it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from imagecache.store.model import LayerName


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of the filesystem that holds the store."""

    capacity: int
    free: int


@dataclass(frozen=True, slots=True)
class Resident:
    """A bundle that is on the node."""

    id: str
    layers: Mapping[LayerName, int]
    """Bytes on this disk, by layer image."""
    priority: int = 0
    last_used: float = 0.0
    """Seconds since the epoch."""
    wanted: bool = True
    """Some cache that belongs to this node has it."""

    @property
    def worth(self) -> tuple[bool, int, float, str]:
        return (self.wanted, self.priority, self.last_used, self.id)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bundle that is wanted and not whole on the node."""

    id: str
    layers: Mapping[LayerName, int]
    """Bytes of each layer image still to be fetched or here already."""
    priority: int = 0
    created: float = 0.0
    """Of the cache, seconds since the epoch."""
    last_used: float = 0.0
    """When it was on this node before; 0 when never."""
    running: bool = False
    """Its fetch has begun: it goes first."""

    @property
    def worth(self) -> tuple[bool, int, float, str]:
        return (True, self.priority, self.last_used or self.created, self.id)


@dataclass(frozen=True, slots=True)
class Policy:
    """Shares of the capacity."""

    reserve: float = 0.15
    """Kubelet's eviction threshold for ``imagefs.available``."""
    headroom: float = 0.02
    """Left in addition by fetches, so that small writes of others do not cross the line."""


@dataclass(frozen=True, slots=True)
class Situation:
    disk: Disk
    residents: Sequence[Resident] = ()
    candidates: Sequence[Candidate] = ()
    present: Mapping[LayerName, int] = field(default_factory=dict)
    """Bytes on this disk of every layer image, and of the parts of those on their way."""
    in_use: Collection[LayerName] = ()
    """Mounted for containers."""


@dataclass(frozen=True, slots=True)
class Refused:
    id: str
    needed: int
    """Bytes to fetch."""
    available: int
    """Bytes that could be had, with everything worth less given up."""


@dataclass(frozen=True, slots=True)
class Decision:
    fetch: tuple[str, ...] = ()
    """Ids that fit, in the order of worth; what ``evict`` frees is needed for some of them."""
    evict: tuple[str, ...] = ()
    """Ids to give up first."""
    refused: tuple[Refused, ...] = ()
    waiting: tuple[str, ...] = ()
    """Ids that fit once ``evict`` has freed its space: they are decided again when that is done."""
    spare: int = 0
    """Bytes that nobody needs, beside all that is fetched and what must stay free."""


class _Books:
    """What is on the disk while the decision is made."""

    def __init__(self, situation: Situation, policy: Policy) -> None:
        self.spare = situation.disk.free - math.ceil(situation.disk.capacity * (policy.reserve + policy.headroom))
        self.residents = sorted(situation.residents, key=lambda resident: resident.worth)
        self.present = dict(situation.present)
        self.planned: dict[LayerName, int] = {}
        self._in_use = set(situation.in_use)

    def needed(self, layers: Mapping[LayerName, int]) -> int:
        """Bytes that are neither here nor planned."""
        return sum(
            max(0, size - self.present.get(name, 0)) for name, size in layers.items() if name not in self.planned
        )

    def freed(self, going: Sequence[Resident], beside: Mapping[LayerName, int]) -> int:
        """Bytes that come free when these go, with ``beside`` staying."""
        gone = {resident.id for resident in going}
        kept = self._in_use | self.planned.keys() | beside.keys()
        for resident in self.residents:
            if resident.id not in gone:
                kept |= resident.layers.keys()
        layers = {name: size for resident in going for name, size in resident.layers.items()}
        return sum(self.present.get(name, 0) for name in layers if name not in kept)

    def give_up(self, going: Sequence[Resident], beside: Mapping[LayerName, int]) -> None:
        self.spare += self.freed(going, beside)
        gone = {resident.id for resident in going}
        self.residents = [resident for resident in self.residents if resident.id not in gone]


def decide(situation: Situation, policy: Policy | None = None) -> Decision:
    """What to fetch, give up and refuse."""
    policy = policy or Policy()
    books = _Books(situation, policy)
    evict = _shed(books, situation.disk, policy)
    fetch: list[str] = []
    waiting: list[str] = []
    refused: list[Refused] = []
    for candidate in _ranked(situation.candidates):
        needed = books.needed(candidate.layers)
        victims = _victims(books, candidate, needed)
        if victims is None:
            refused.append(Refused(candidate.id, needed, _most(books, candidate)))
            continue
        books.give_up(victims, candidate.layers)
        books.spare -= needed
        books.planned.update(candidate.layers)
        evict += [victim.id for victim in victims]
        (waiting if evict and not candidate.running else fetch).append(candidate.id)
    spare = 0 if evict else max(0, books.spare)  # what is being freed is not free yet
    return Decision(tuple(fetch), tuple(evict), tuple(refused), tuple(waiting), spare)


def _ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that run first, then by worth: what was given up never comes back before what it was given up for."""
    return sorted(candidates, key=lambda each: (each.running, each.worth), reverse=True)


def _shed(books: _Books, disk: Disk, policy: Policy) -> list[str]:
    """Others have filled the disk below the reserve: give up what is worth least, as far as that helps."""
    short = math.ceil(disk.capacity * policy.reserve) - disk.free
    going: list[Resident] = []
    for resident in list(books.residents):
        if short <= 0:
            break
        gain = books.freed([*going, resident], {}) - books.freed(going, {})
        if gain > 0:
            going.append(resident)
            short -= gain
    books.give_up(going, {})
    return [resident.id for resident in going]


def _victims(books: _Books, candidate: Candidate, needed: int) -> list[Resident] | None:
    """The residents to give up for it, as few as will do; None when it does not fit even so."""
    if needed <= books.spare or candidate.running:
        return []
    going: list[Resident] = []
    for resident in _lesser(books, candidate):
        going.append(resident)
        if needed <= books.spare + books.freed(going, candidate.layers):
            return _spared(books, candidate, needed, going)
    return None


def _spared(books: _Books, candidate: Candidate, needed: int, going: list[Resident]) -> list[Resident]:
    """Without those whose going does not help, the one worth most looked at first."""
    for resident in list(reversed(going)):
        fewer = [each for each in going if each is not resident]
        if needed <= books.spare + books.freed(fewer, candidate.layers):
            going = fewer
    return going


def _lesser(books: _Books, candidate: Candidate) -> list[Resident]:
    return [resident for resident in books.residents if resident.worth < candidate.worth]


def _most(books: _Books, candidate: Candidate) -> int:
    return max(0, books.spare + books.freed(_lesser(books, candidate), candidate.layers))
