"""Events on pods: at most so many a second, so that no wave of pods becomes a wave of events; what is left over waits.

An event has a name of its own, so one that is there already was told, by us or by whoever led before. They are for
people: what cannot be posted is tried again a few times, logged and dropped. It must not decide what is told.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from imagecache.api import times
from imagecache.api.events import MESSAGE
from imagecache.backoff import Backoff, Retries
from imagecache.clock import Clock
from imagecache.controller.event_recorder import COMPONENT
from imagecache.controller.pods.decide import Tell
from imagecache.controller.pods.pod import Pod
from imagecache.errors import KubernetesError, KubernetesUnavailable, ObjectExists
from imagecache.kube.api import Kube, Object
from imagecache.kube.resources import EVENTS, PODS
from imagecache.telemetry.log import get_logger
from imagecache.written import printable

_RATE = 20.0
"""Events a second, for as long as it takes."""
_BURST = 100
"""Events at once after a quiet time: a Deployment that starts."""
_BACKLOG = 1000
"""Events that wait for their turn, less than a minute; more are dropped, and counted."""
_TRIES = 5
_BACKOFF = Backoff(0.25, 4.0)
_log = get_logger(__name__)


@dataclass(slots=True)
class Bucket:
    """So many a second, and ``burst`` at once after a quiet time."""

    clock: Clock
    rate: float
    burst: float
    _left: float = -1.0
    _at: float = 0.0

    def take(self) -> float:
        """Take one, and return 0; or the seconds until there is one."""
        now = self.clock.monotonic()
        self._left = self.burst if self._left < 0 else min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self.rate
        self._left -= 1
        return 0.0


@dataclass(frozen=True, slots=True)
class Subject:
    """The pod that an event is about."""

    namespace: str
    name: str
    uid: str

    @classmethod
    def of(cls, pod: Pod) -> Subject:
        return cls(pod.namespace, pod.name, pod.uid)


class Teller:
    """Posts events. ``dropped`` is called for each that is not posted because there are too many."""

    def __init__(self, kube: Kube, clock: Clock, dropped: Callable[[], None], *, burst: int = _BURST) -> None:
        self._kube = kube
        self._clock = clock
        self._dropped = dropped
        self._bucket = Bucket(clock, _RATE, burst)
        self._backlog: deque[tuple[Subject, Tell]] = deque()
        self._filled = asyncio.Event()
        self._refused = Retries(_BACKOFF, _log, "event not posted")

    async def tell(self, subject: Subject, tell: Tell) -> None:
        """Post it now, or leave it to ``run`` when its turn comes later. Raises KubernetesUnavailable: try again."""
        if not self._backlog and not self._bucket.take():
            await self._post(subject, tell)
        elif len(self._backlog) < _BACKLOG:
            self._backlog.append((subject, tell))
            self._filled.set()
        else:
            self._dropped()

    async def run(self) -> None:
        """Post what waits, until cancelled."""
        while True:
            await self._filled.wait()
            while self._backlog:
                wait = self._bucket.take()
                if wait:
                    await asyncio.sleep(wait)
                    continue
                await self._insist(*self._backlog[0])
                self._backlog.popleft()
            self._filled.clear()

    async def _insist(self, subject: Subject, tell: Tell) -> None:
        retries = Retries(_BACKOFF, _log, "event not posted, will try again", pod=f"{subject.namespace}/{subject.name}")
        for _ in range(_TRIES):
            try:
                await self._post(subject, tell)
            except KubernetesUnavailable as error:
                await asyncio.sleep(retries.failed(error))
            else:
                return
        self._dropped()

    async def _post(self, subject: Subject, tell: Tell) -> None:
        try:
            await post(self._kube, subject, tell, self._clock.now())
        except KubernetesUnavailable:
            raise
        except KubernetesError as error:  # roles, or a namespace that is being deleted: another try changes nothing
            self._refused.failed(error)


async def post(kube: Kube, subject: Subject, tell: Tell, now: dt.datetime) -> None:
    """Make the event, unless there is one of its name already: then it was told. Raises KubernetesError."""
    with suppress(ObjectExists):
        await kube.create(EVENTS, _object(subject, tell, times.render(now)), namespace=subject.namespace)


def _object(subject: Subject, tell: Tell, now: str) -> Object:
    about: Object = {"apiVersion": PODS.api_version, "kind": PODS.kind, "uid": subject.uid}
    return {
        "metadata": {"name": tell.name, "namespace": subject.namespace},
        "involvedObject": {**about, "name": subject.name, "namespace": subject.namespace},
        "type": tell.told.type,
        "reason": tell.told.reason,
        "message": printable(tell.told.message, MESSAGE),
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": COMPONENT},
    }
