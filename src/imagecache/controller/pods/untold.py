"""What the controller that led before may have done and not told: looked for once, when this one has begun to lead.

It may have been killed between a PATCH or a new cache and the event that says so. A pod that is still starting is seen
by the stream; this looks at those that run by now. What they were told is not known, but the names of events follow
from what is told, so what was told is not told again. Bounded: pods that got their node lately, the youngest of them,
a few a second. It must not decide: ``decide.untold`` does.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import heapq
from collections.abc import Callable

from imagecache.api import ids, times
from imagecache.backoff import Backoff, Retries
from imagecache.clock import Clock
from imagecache.controller.informer_cache import InformerCache
from imagecache.controller.pods.autocaches import is_auto
from imagecache.controller.pods.decide import LATELY, Look, Tell, event_name, untold
from imagecache.controller.pods.messages import Subject, Teller
from imagecache.controller.pods.pod import DECODER, Pod
from imagecache.errors import KubernetesError
from imagecache.kube import objects
from imagecache.kube.api import ClusterKube, Object
from imagecache.kube.resources import PODS
from imagecache.kube.stream import pages
from imagecache.match import events
from imagecache.match.keys import CREATED_FOR
from imagecache.match.views import Verdict
from imagecache.telemetry.log import get_logger

_MOST = 500
"""Events that are tried."""
_PAUSE = 0.1
"""Seconds between two of them, so that those of pods that start now have half of the rate, and between two pages."""
_TRIES = 5
_BACKOFF = Backoff(0.25, 4.0)
_PENDING = "Pending"
_log = get_logger(__name__)


class Untold:
    """``verdict``: of a pod as of now; None: it is none of our business, or nobody has written anything about it."""

    def __init__(
        self,
        kube: ClusterKube,
        informers: InformerCache,
        teller: Teller,
        clock: Clock,
        verdict: Callable[[Pod], Verdict | None],
        *,
        pause: float = _PAUSE,
    ) -> None:
        self._kube = kube
        self._informers = informers
        self._teller = teller
        self._clock = clock
        self._verdict = verdict
        self._pause = pause

    async def run(self, followed: asyncio.Event) -> None:
        """One look, after pods are ``followed``: one that was starting before that has been seen."""
        await followed.wait()
        retries = Retries(_BACKOFF, _log, "events of the controller before not looked for, will try again")
        for _ in range(_TRIES):
            try:
                await self.look()
            except KubernetesError as error:
                await asyncio.sleep(retries.failed(error))
            else:
                return

    async def look(self) -> None:
        """Tell what may not have been told. Raises KubernetesError."""
        now, found = self._clock.now(), list[tuple[str, str, Subject, Tell]]()
        made = {_cause(item): item for item in self._informers.caches.values() if _is_new(item, now)}
        async for page in pages(self._kube, PODS, DECODER):
            for pod in page.objects:
                tells = [*self._of_pod(pod, now), *_of_cache(pod, made.get(f"{pod.namespace}/{pod.uid}"))]
                found += [(pod.scheduled, tell.name, Subject.of(pod), tell) for tell in tells]
            found = heapq.nlargest(_MOST, found, key=lambda each: each[:2])
            await asyncio.sleep(self._pause)
        for _, _, subject, tell in found:
            await self._teller.tell(subject, tell)
            await asyncio.sleep(self._pause)

    def _of_pod(self, pod: Pod, now: dt.datetime) -> tuple[Tell, ...]:
        if pod.status.phase == _PENDING or not 0 <= pod.bound_for(now) < LATELY:
            return ()
        verdict = self._verdict(pod)
        return untold(Look(pod=pod, verdict=verdict, now=now)) if verdict is not None else ()


def _cause(item: Object) -> str:
    """Namespace and uid of the pod that it was made for."""
    return objects.texts(item, "metadata", "annotations").get(CREATED_FOR, "")


def _is_new(item: Object, now: dt.datetime) -> bool:
    """Whether it was made lately for a pod, by whoever led then."""
    created = times.read(objects.text(item, "metadata", "creationTimestamp"))
    return is_auto(item) and created is not None and (now - created).total_seconds() < LATELY


def _of_cache(pod: Pod, item: Object | None) -> tuple[Tell, ...]:
    if item is None:
        return ()
    told = events.auto_created(ids.derived_cache_id(objects.uid(item)))
    return (Tell(told, event_name(pod.name, pod.uid, told)),)
