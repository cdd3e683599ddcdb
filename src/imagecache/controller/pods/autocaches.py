"""Caches that pods had made for them: a few a minute, a limited number, the least recently used one out first.

A wish is named by what it asks for, so that any number of pods is one wish, and one object: who comes second is told
that it exists. What nobody could grant, the next pod with these images wishes for again. Namespaces take turns, and
each has a number of its own, so that none takes all from the others. It must not know pods but for
the one that an event is about, and never touches a cache that a person has made.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from imagecache.api import ids
from imagecache.api.types import Phase
from imagecache.backoff import Backoff, Retries
from imagecache.clock import Clock
from imagecache.controller import pull_secrets
from imagecache.controller.informer_cache import InformerCache
from imagecache.controller.pods.decide import CreateCache, Tell, event_name
from imagecache.controller.pods.messages import Bucket, Subject, Teller
from imagecache.controller.quota import used
from imagecache.errors import (
    KubernetesError,
    KubernetesUnavailable,
    ObjectConflict,
    ObjectExists,
    ObjectNotFound,
    PullSecretUnavailable,
)
from imagecache.kube import objects
from imagecache.kube.api import Kube, Object
from imagecache.kube.resources import IMAGE_CACHES
from imagecache.match import events
from imagecache.match.keys import AUTO_CREATED, CREATED_FOR
from imagecache.match.views import AutoCache, Told
from imagecache.telemetry.log import get_logger

RECENT = dt.timedelta(minutes=10)
"""One that was made or used so lately stays, whatever the limit: else pods would drive each other's caches out."""
_A_MINUTE = 6
"""Caches made in a minute, at most: a build for an image that never comes again costs the cluster much."""
_WISHES = 100
"""That wait for their turn; more are dropped."""
_WISHES_EACH = 25
"""The same of one namespace."""
_TRIES = 5
_BACKOFF = Backoff(0.25, 4.0)
_BUILDING = frozenset({"", Phase.PENDING.value, Phase.CREATING.value, Phase.UPDATING.value})
"""``status.phase`` of one that is being built, or about to be."""
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """A cache that a pod had made for it."""

    name: str
    uid: str
    used: dt.datetime
    """As ``quota.used`` says."""
    building: bool
    namespace: str = ""
    """Of that pod."""

    @classmethod
    def of(cls, item: Object) -> Made:
        building = objects.text(item, "status", "phase") in _BUILDING
        namespace, _, _ = objects.texts(item, "metadata", "annotations").get(CREATED_FOR, "").partition("/")
        return cls(objects.name(item), objects.uid(item), used(item), building, namespace)


@dataclass(frozen=True, slots=True)
class AutoLimits:
    """How many caches pods may have had made for them."""

    all: int
    each: int
    """Those of one namespace."""


def is_auto(item: Object) -> bool:
    """Whether a pod had it made."""
    return objects.texts(item, "metadata", "labels").get(AUTO_CREATED) == "true"


def victim(made: Iterable[Made], now: dt.datetime) -> Made | None:
    """The one that goes when another one needs its place; None: none of them may."""
    idle = (each for each in made if not each.building and now - each.used >= RECENT)
    return min(idle, key=lambda each: (each.used, each.name), default=None)


def document(wanted: AutoCache, subject: Subject) -> Object:
    """The ImageCache."""
    spec: Object = {"images": list(wanted.images), "imageCacheSize": wanted.size}
    if wanted.pull_secrets:
        spec["imagePullSecrets"] = list(wanted.pull_secrets)
    annotations: Object = {**wanted.annotations, CREATED_FOR: f"{subject.namespace}/{subject.uid}"}
    metadata: Object = {"name": wanted.name, "labels": {AUTO_CREATED: "true"}, "annotations": annotations}
    return {"metadata": metadata, "spec": spec}


@dataclass(frozen=True, slots=True)
class _Wish:
    subject: Subject
    action: CreateCache


class AutoCaches:
    """``count`` is called with what became of each wish: ``created``, ``exists``, ``refused``, ``dropped``."""

    def __init__(
        self,
        kube: Kube,
        informers: InformerCache,
        clock: Clock,
        teller: Teller,
        *,
        limits: AutoLimits,
        count: Callable[[str], None],
    ) -> None:
        self._kube = kube
        self._informers = informers
        self._clock = clock
        self._teller = teller
        self._limits = limits
        self._count = count
        self._bucket = Bucket(clock, _A_MINUTE / 60, _A_MINUTE)
        self._wishes: dict[str, _Wish] = {}
        """By name of the cache."""
        self._turns: dict[str, int] = {}
        """When each namespace that waits had its last turn, as a number that grows."""
        self._fresh: dict[str, str] = {}
        """Namespaces by names of those that we have made; the informer may not show them yet."""
        self._evicted: set[str] = set()
        """Uids of those that we have deleted; the informer may still show them."""
        self._filled = asyncio.Event()

    def wish(self, subject: Subject, action: CreateCache) -> None:
        name = action.cache.name
        if name in self._wishes or self._exists(name):
            self._count("exists")
        elif len(self._wishes) >= _WISHES or self._waiting(subject.namespace) >= _WISHES_EACH:
            self._count("dropped")
        else:
            self._wishes[name] = _Wish(subject, action)
            self._filled.set()

    def seen(self, names: Iterable[str]) -> None:
        """The informer has shown these, or that they are gone."""
        for name in names:
            self._fresh.pop(name, None)

    async def run(self) -> None:
        """Grant wishes until cancelled, one after another."""
        while True:
            await self._filled.wait()
            turn = 0
            while self._wishes:
                name = min(self._wishes, key=self._last_turn)  # of those with the same, the oldest
                wish, turn = self._wishes[name], turn + 1
                self._turns[wish.subject.namespace] = turn
                self._count(await self._insist(wish))
                del self._wishes[name]
            self._turns.clear()
            self._filled.clear()

    def _last_turn(self, name: str) -> int:
        return self._turns.get(self._wishes[name].subject.namespace, 0)

    def _waiting(self, namespace: str) -> int:
        return sum(wish.subject.namespace == namespace for wish in self._wishes.values())

    async def _insist(self, wish: _Wish) -> str:
        """What became of it."""
        retries = Retries(_BACKOFF, _log, "cache not made, will try again", name=wish.action.cache.name)
        for _ in range(_TRIES):
            try:
                return await self._grant(wish)
            except KubernetesUnavailable as error:
                await asyncio.sleep(retries.failed(error))
            except KubernetesError as error:
                _log.warning("cache not made", name=wish.action.cache.name, problem=str(error))
                return await self._refuse(wish, "the API server refuses it; the controller's log says why")
        return "dropped"

    async def _grant(self, wish: _Wish) -> str:
        wanted = wish.action.cache
        if self._exists(wanted.name):
            return "exists"
        for name in wanted.pull_secrets:
            try:
                await pull_secrets.read_version(self._kube, name)
            except PullSecretUnavailable:
                return await self._refuse(wish, f"pull secret {name.replace(':', '/')} cannot be read")
        for limit, namespace in ((self._limits.each, wish.subject.namespace), (self._limits.all, "")):
            if not await self._make_room(limit, namespace):
                whose = f" of namespace {namespace}" if namespace else ""
                return await self._refuse(
                    wish, f"the limit of {limit} automatic image caches{whose} is reached, and all are in use or new"
                )
        if wait := self._bucket.take():  # not before: what is refused must not take the turns of others
            await asyncio.sleep(wait)
            return await self._grant(wish)
        try:
            made = await self._kube.create(IMAGE_CACHES, document(wanted, wish.subject))
        except ObjectExists:
            return "exists"
        self._fresh[wanted.name] = wish.subject.namespace
        _log.info("cache made for a pod", name=wanted.name, namespace=wish.subject.namespace)
        await self._tell(wish.subject, events.auto_created(ids.derived_cache_id(objects.uid(made))))
        return "created"

    async def _refuse(self, wish: _Wish, cause: str) -> str:
        if wish.action.told:
            await self._tell(wish.subject, events.auto_create_failed(cause))
        return "refused"

    async def _tell(self, subject: Subject, told: Told) -> None:
        """The cache is made or not, whether or not that can be told."""
        try:
            await self._teller.tell(subject, Tell(told, event_name(subject.name, subject.uid, told)))
        except KubernetesError as error:
            _log.warning("event not posted", namespace=subject.namespace, problem=str(error))

    async def _make_room(self, limit: int, namespace: str) -> bool:
        """Whether there is room for one more of this namespace ("": of all), also when others had to go for it."""
        while True:
            shown = self._informers.caches
            self.seen(shown)
            self._evicted &= {objects.uid(item) for item in shown.values()}
            made = [
                Made.of(item)
                for item in shown.values()
                if is_auto(item)
                and not objects.text(item, "metadata", "deletionTimestamp")
                and objects.uid(item) not in self._evicted
            ]
            made = [each for each in made if namespace in {"", each.namespace}]
            fresh = sum(namespace in {"", each} for each in self._fresh.values())
            if len(made) + fresh < limit:
                return True
            old = victim(made, self._clock.now())
            if old is None or not limit:
                return False
            _log.info("cache makes room for another", name=old.name)
            with suppress(ObjectNotFound, ObjectConflict):
                await self._kube.delete(IMAGE_CACHES, old.name, uid=old.uid)
            self._evicted.add(old.uid)

    def _exists(self, name: str) -> bool:
        return name in self._fresh or name in self._informers.caches
