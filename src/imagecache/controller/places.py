"""The ImageCaches of a cluster as the quota sees them, up to date with what was decided a moment ago.

The informer lags behind decisions, and many objects are decided about at once. So a build that was decided on has its
place from that moment, whatever the informer shows; after a restart the objects' own status says the same. It must not
decide: ``quota.standing`` does.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from imagecache.api.types import Status
from imagecache.clock import Clock
from imagecache.controller.quota import Limits, Place, Standing, Stored, place_of, standing, state
from imagecache.errors import QuotaExceeded, StoreError
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.store.layer_name import LayerName
from imagecache.telemetry.log import get_logger

_LOOK = 15.0
"""Seconds: what was used recently may go at some time, and nothing reports that."""
_PAUSE = 0.2
"""Seconds between two looks that changes ask for."""
_log = get_logger(__name__)


class Places:
    """For one event loop.

    Args:
        limits: without any, everything may begin and nothing goes, and the objects are not looked at.
        layers: as ``BundleStore.layers``; blocks. Raises StoreError.
        clock: what was used recently is told by it.
        wake: called with the name of each object that another decision is due for.
        interval: seconds between two looks that no change asks for.
    """

    def __init__(
        self,
        limits: Limits,
        layers: Callable[[], Mapping[str, Mapping[LayerName, int]]],
        clock: Clock,
        wake: Callable[[str], None],
        *,
        interval: float = _LOOK,
    ) -> None:
        self._limits = limits
        self._layers = layers
        self._clock = clock
        self._wake = wake
        self._interval = interval
        self._places: dict[str, Place] = {}
        self._used: dict[str, dt.datetime] = {}
        """Matches that the objects do not have yet, by name."""
        self._decided: dict[str, tuple[bool, bool]] = {}
        """``quota.state`` by the last decision, by uid."""
        self._leaving: set[str] = set()
        """Uids whose deletion was asked for."""
        self._refused: set[str] = set()
        """Names that were told to wait."""
        self._listed: object = None
        """The answer that ``_stored`` was made of."""
        self._stored = Stored()
        self._cleared: set[str] = set()
        """Owners of objects that have gone, whose bundles may be in ``_stored`` still."""
        self._measuring = asyncio.Lock()
        self._version = 0
        self._easy = Standing(limits)
        """That of all while there is room."""
        self._known: tuple[object, Standing] = (None, self._easy)
        self._changed = asyncio.Event()

    @property
    def _limited(self) -> bool:
        return bool(self._limits.caches or self._limits.store)

    def take(self, item: Object, *, gone: bool) -> None:
        """An ImageCache as a watch has reported it."""
        name, before = objects.name(item), self._places.get(objects.name(item))
        if not self._limited:
            return
        after = None if gone else place_of(item)
        if after is None:
            self._places.pop(name, None)
            self._used.pop(name, None)
            self._refused.discard(name)
        else:
            self._places[name] = after
        if before is not None and (after is None or after.uid != before.uid):
            self._decided.pop(before.uid, None)
            self._leaving.discard(before.uid)
            if self._limits.store:
                self._cleared.add(before.owner)
                self._stored = self._stored.without({before.owner})
        if after != before:
            self._change()

    def matched(self, name: str, when: dt.datetime) -> None:
        if name in self._places:
            self._used[name] = max(when, self._used.get(name, when))
            self._version += 1

    def decided(self, name: str, uid: str, status: Status | None) -> None:
        """The status that an object is about to have; no other object is looked at between the two."""
        place = self._places.get(name)
        if place is None or place.uid != uid:
            return
        phase = status.phase.value if status is not None else ""
        wanted = status.attempt.wanted if status is not None and status.attempt is not None else ""
        before = self._decided.get(uid, (place.holds, place.waits))
        self._decided[uid] = state(phase, wanted)
        if before != self._decided[uid]:
            self._change()

    def leaves(self, name: str, uid: str) -> None:
        """The deletion of an object was asked for."""
        place = self._places.get(name)
        if place is not None and place.uid == uid:
            self._leaving.add(uid)
            self._change()

    async def measure(self) -> None:
        """See what the store has. While it cannot be read, what it had counts."""
        if not self._limits.store:
            return
        async with self._measuring:  # in order: an answer of before must not be the last one
            cleared = set(self._cleared)
            with suppress(StoreError):
                layers = await asyncio.to_thread(self._layers)
                self._cleared -= cleared  # the answer is of after they went
                if layers is not self._listed or cleared:
                    self._listed, self._stored = layers, Stored(layers).without(self._cleared)
                    self._version += 1

    def refusal(self, name: str) -> QuotaExceeded | None:
        """Why a cache that has not begun may not begin now."""
        place = self._places.get(name)
        found = self._standing().refusal(self._as_decided(place)) if place is not None else None
        (self._refused.discard if found is None else self._refused.add)(name)
        return found

    def eviction(self, name: str) -> str:
        """Why a cache has to go; empty: it stays."""
        return self._standing().going.get(name, "")

    async def admit(self) -> None:
        """Before a build: of many that were decided on, those before have made layers. Raises QuotaExceeded."""
        await self.measure()
        if 0 < self._limits.store <= self._stored.size:
            raise self._easy.store_is_full()

    async def run(self) -> None:
        """Wake those whom a change of the others concerns, until cancelled."""
        if not self._limited:
            return
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._changed.wait()
            self._changed.clear()
            await self.measure()
            for name in self._concerned():
                self._wake(name)
            await asyncio.sleep(_PAUSE)

    def _concerned(self) -> list[str]:
        found = self._standing()
        freed = [name for name in self._refused if found.refusal(self._as_decided(self._places[name])) is None]
        if found.going:
            _log.info("image caches go, for there is no room", names=sorted(found.going))
        return [*found.going, *freed]

    def _standing(self) -> Standing:
        """Of all; computed once for each change, and once a second, while there is not room for everything."""
        many = 0 < self._limits.caches < len(self._places)
        if not many and not 0 < self._limits.store <= self._stored.size:
            return self._easy
        now = self._clock.now()
        key = (self._version, int(now.timestamp()))
        if self._known[0] != key:
            places = [self._as_decided(place) for place in self._places.values()]
            self._known = (key, standing(places, self._limits, self._stored, now))
        return self._known[1]

    def _as_decided(self, place: Place) -> Place:
        decided = self._decided.get(place.uid, (place.holds, place.waits))
        if decided != (place.holds, place.waits):
            place = replace(place, holds=decided[0], waits=decided[1], idle=place.idle and decided[0])
        if place.uid in self._leaving and not place.leaves:
            place = replace(place, leaves=True, clears=True)
        used = self._used.get(place.name)
        return place if used is None or used <= place.used else replace(place, used=used)

    def _change(self) -> None:
        self._version += 1
        self._changed.set()
