"""Which ImageCaches there is room for: how many a cluster may have, and how many bytes its store.

A pure function of all objects, so however many come at once, and in whatever order they are looked at, each gets an
answer that fits those of the others. Who has content, or has begun to be built, keeps its place. The others get what
room there is in the order in which they were created. When more are wanted than there is room for, those go that their
owners have marked so, least recently used first; what still does not fit waits (``docs/internals/status.md``). Where
bytes are short, only those go whose layer images nobody else has, and none if all of them are not enough. Source:
eci-api §5.5. It must not do I/O.
"""

from __future__ import annotations

import bisect
import datetime as dt
import types
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from imagecache.api import ids, nodes, phases, times
from imagecache.api.assignment import SERVING
from imagecache.api.types import Phase
from imagecache.errors import QuotaExceeded
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.limits import GIB
from imagecache.match.keys import AUTO_CREATED
from imagecache.store.layer_name import LayerName

RECENT = dt.timedelta(minutes=10)
"""What was used within that time does not go: pods that start now may be why it is there."""
_BUILT = frozenset(phase.value for phase in SERVING)
_UNBUILT = frozenset({"", Phase.PENDING.value, Phase.CREATING.value})
_IDLE = frozenset(phase.value for phase in phases.IDLE)
_NEVER = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_Turn = tuple[dt.datetime, str]
"""Orders those that wait: created, name."""


@dataclass(frozen=True, slots=True)
class Limits:
    """0: there is none."""

    caches: int = 0
    """Those that pods had made for them are not counted, as many as their own limit allows."""
    store: int = 0
    """Bytes of the store's layer images from which on no other cache is begun."""
    automatic: int = 0
    """Caches with the label of those that pods had made: anybody who makes a cache can write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One ImageCache, as far as it matters here."""

    name: str
    uid: str
    created: dt.datetime
    used: dt.datetime
    """As ``used`` says."""
    holds: bool
    """It has content, or its build has begun."""
    waits: bool
    """It is to be built, and has not begun."""
    idle: bool
    """It has content, and nothing is built."""
    may_go: bool
    """Its owner allows it, or nobody asked for it."""
    automatic: bool
    """A pod had it made."""
    leaves: bool
    """Its deletion has begun."""
    clears: bool
    """Its deletion has begun, and its bundle is not deleted yet."""

    @property
    def turn(self) -> _Turn:
        return self.created, self.name

    @property
    def owner(self) -> str:
        """As in ``Stored``."""
        return ids.owner(self.uid)


class Stored:
    """What the store has: the layer images of each object's bundles, with their bytes, by ``ids.owner``."""

    def __init__(self, layers: Mapping[str, Mapping[LayerName, int]] = types.MappingProxyType({})) -> None:
        """``layers``: by id of the bundle, or any other text that begins with the owner."""
        self._layers: dict[str, dict[LayerName, int]] = {}
        for bundle_id, images in layers.items():
            self._layers.setdefault(ids.owner_of(bundle_id), {}).update(images)
        self.size = sum({name: size for images in self._layers.values() for name, size in images.items()}.values())
        """Bytes, each layer image counted once."""

    def without(self, owners: Collection[str]) -> Stored:
        return Stored({owner: images for owner, images in self._layers.items() if owner not in owners})

    def leaving(self, below: int, gone: Iterable[str], others: Sequence[str]) -> list[str]:
        """Owners that have to go besides those that are ``gone``, so that less than ``below`` bytes are left.

        Of the ``others``, in this order, and then without those who may stay all the same, the last ones first; so
        nobody whose going frees nothing. None at all when all of them are not enough.
        """
        holders = Counter(name for images in self._layers.values() for name in images)
        size, chosen = self.size, list[str]()
        for owner in gone:
            size -= self._free(owner, holders)
        for owner in others:
            if size < below:
                break
            size -= self._free(owner, holders)
            chosen.append(owner)
        if size >= below:
            return []
        for owner in reversed(chosen.copy()):
            back = self._take_back(owner, holders)
            if size + back < below:
                size += back
                chosen.remove(owner)
            else:
                self._free(owner, holders)
        return chosen

    def _free(self, owner: str, holders: Counter[LayerName]) -> int:
        """Bytes that nobody has any longer."""
        images = self._layers.get(owner, {})
        holders.subtract(images.keys())
        return sum(size for name, size in images.items() if not holders[name])

    def _take_back(self, owner: str, holders: Counter[LayerName]) -> int:
        """Bytes that nobody had before."""
        images = self._layers.get(owner, {})
        back = sum(size for name, size in images.items() if not holders[name])
        holders.update(images.keys())
        return back


def place_of(item: Object) -> Place:
    """An object as the API server has it. Fields that cannot be read count as absent."""
    annotations, labels = (objects.texts(item, "metadata", each) for each in ("annotations", "labels"))
    phase, finalizers = objects.text(item, "status", "phase"), objects.at(item, "metadata", "finalizers")
    holds, waits = state(phase, objects.text(item, "status", "attempt", "wanted"))
    leaves = bool(objects.text(item, "metadata", "deletionTimestamp"))
    created = times.read(objects.text(item, "metadata", "creationTimestamp")) or _NEVER
    automatic = labels.get(AUTO_CREATED) == "true"
    return Place(
        name=objects.name(item),
        uid=objects.uid(item),
        created=created,
        used=used(item),
        holds=holds,
        waits=waits,
        idle=phase in _IDLE,
        may_go=automatic or nodes.may_go(annotations),
        automatic=automatic,
        leaves=leaves,
        clears=leaves and isinstance(finalizers, list) and nodes.FINALIZER in finalizers,
    )


def used(item: Object) -> dt.datetime:
    """When a pod was matched with an ImageCache last, else when it was made; not before it was ready: nobody could."""
    matched = times.read(objects.text(item, "status", "lastMatchedTime"))
    made = times.read(objects.text(item, "metadata", "creationTimestamp"))
    ready = times.read(objects.text(objects.condition(item, "Ready"), "lastTransitionTime"))
    return max(matched or made or _NEVER, ready or _NEVER)


def state(phase: str, wanted: str) -> tuple[bool, bool]:
    """Whether a cache in this phase, whose last attempt was for ``wanted``, has a place, and whether it waits for one.

    An attempt that the quota has refused was for nothing, so that it says who has begun.
    """
    unbuilt = phase in _UNBUILT
    return phase in _BUILT or (unbuilt and bool(wanted)), unbuilt and not wanted


@dataclass(frozen=True, slots=True)
class Standing:
    """The answer for all of them."""

    limits: Limits
    room: int | None = None
    """How many more may begin; None: any number."""
    free: frozenset[str] = frozenset()
    """Names of those that are not counted."""
    waiting: tuple[_Turn, ...] = ()
    """Those that wait for it, in the order of their turns."""
    full: bool = False
    """The store has as much as it may have."""
    going: Mapping[str, str] = field(default_factory=dict)
    """Names of those that have to go, and why."""

    def refusal(self, place: Place) -> QuotaExceeded | None:
        """Why this one may not begin now; None: it may, or has begun."""
        if place.holds or place.leaves:
            return None
        if self.full:
            return self.store_is_full()
        if self.room is None or place.name in self.free or bisect.bisect_left(self.waiting, place.turn) < self.room:
            return None
        return QuotaExceeded(_MANY.format(count=self.limits.caches), hint=_HINT.format(setting="max_caches"))

    def store_is_full(self) -> QuotaExceeded:
        size = self.limits.store // GIB
        return QuotaExceeded(_FULL.format(size=size), hint=_HINT.format(setting="max_store_size"))


_MANY = "there may be {count} image caches (max_caches), and as many have been begun"
_FULL = "the store may have {size} GiB (max_store_size), and has them"
_HINT = (
    "it is built as soon as another one is deleted or expires, or one that is marked with the annotation "
    f"{nodes.ELIMINATION}: LRU was not used for 10 minutes; or raise {{setting}}"
)
_GOES = "{limit}; of those that may go (" + nodes.ELIMINATION + ": LRU) it was used least recently, at {used}"


def standing(places: Collection[Place], limits: Limits, stored: Stored, now: dt.datetime) -> Standing:
    staying = [place for place in places if not place.leaves]
    automatic = sorted((place for place in staying if place.automatic), key=lambda place: place.turn)
    free = frozenset(place.name for place in automatic[: limits.automatic])
    counted = [place for place in staying if place.name not in free]
    holding = sum(place.holds for place in counted)
    waiting = tuple(sorted(place.turn for place in counted if place.waits))
    idle = [place for place in staying if place.idle and place.may_go and now - place.used >= RECENT]
    idle.sort(key=lambda place: (place.used, place.name))
    over = max(0, holding + len(waiting) - limits.caches) if limits.caches else 0
    leaving = [place for place in idle if place.name not in free][:over]
    going = {place.name: _why(place, _MANY.format(count=limits.caches)) for place in leaving}
    # who goes makes room at once: their deletion waits for nobody
    room = limits.caches - holding + len(leaving) if limits.caches else None
    full = 0 < limits.store <= stored.size
    may_begin = [place for place in staying if place.waits and (room is None or room > 0 or place.name in free)]
    if full and may_begin:
        gone = [place.owner for place in places if place.clears or place.name in going]
        rest = {place.owner: place for place in idle if place.name not in going}
        for owner in stored.leaving(limits.store, gone, list(rest)):
            going[rest[owner].name] = _why(rest[owner], _FULL.format(size=limits.store // GIB))
    return Standing(limits, room, free, waiting, full, going)


def _why(place: Place, limit: str) -> str:
    return _GOES.format(limit=limit, used=times.render(place.used))
