"""Tells the pod that a cache was made for that its build has failed, if the pod exists and has started lately.

The cache names it by namespace and uid (``keys.CREATED_FOR``), so that any controller can tell; a look through the pods
of that namespace finds its name. Nothing is told an hour later: the API server has forgotten by then what was told, and
a restart would tell it anew. Pods that wait for a pinned cache are told by ``decide``. It must not know why a build
fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from imagecache.api import times
from imagecache.api.parse import is_name
from imagecache.api.types import Phase
from imagecache.backoff import Backoff, Retries
from imagecache.clock import Clock
from imagecache.controller.informer_cache import InformerCache
from imagecache.controller.pods.autocaches import is_auto
from imagecache.controller.pods.decide import AGAIN, Tell, event_name, failure
from imagecache.controller.pods.messages import Subject, Teller
from imagecache.controller.pods.pod import DECODER, Pod
from imagecache.errors import KubernetesError
from imagecache.kube import objects
from imagecache.kube.api import ClusterKube, Object
from imagecache.kube.resources import PODS
from imagecache.kube.stream import pages
from imagecache.match import events
from imagecache.match.keys import CREATED_FOR
from imagecache.telemetry.log import get_logger

_TRIES = 5
_BACKOFF = Backoff(0.25, 4.0)
_log = get_logger(__name__)


class FailedBuilds:
    def __init__(self, kube: ClusterKube, informers: InformerCache, teller: Teller, clock: Clock) -> None:
        self._kube = kube
        self._informers = informers
        self._teller = teller
        self._clock = clock
        self._known: dict[str, str] = {}
        """Uids of the caches that have failed, by name."""
        self._untold: set[str] = set()
        self._filled = asyncio.Event()

    def take(self, names: Collection[str]) -> None:
        """Caches that have changed."""
        for name in names:
            item = self._informers.caches.get(name, {})
            if not is_auto(item) or objects.text(item, "status", "phase") != Phase.FAILED.value:
                self._known.pop(name, None)
                self._untold.discard(name)
            elif self._known.get(name) != objects.uid(item):
                self._known[name] = objects.uid(item)
                self._untold.add(name)
                self._filled.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._filled.wait()
            while self._untold:
                name = self._untold.pop()
                retries = Retries(_BACKOFF, _log, "failure not told, will try again", name=name)
                for _ in range(_TRIES):
                    try:
                        await self._tell(self._informers.caches.get(name, {}))
                        break
                    except KubernetesError as error:
                        await asyncio.sleep(retries.failed(error))
            self._filled.clear()

    async def _tell(self, item: Object) -> None:
        namespace, _, uid = objects.texts(item, "metadata", "annotations").get(CREATED_FOR, "").partition("/")
        now = self._clock.now()
        since = times.read(objects.text(objects.condition(item, "Building"), "lastTransitionTime")) or now
        if not uid or not is_name(namespace):  # somebody has edited it
            return
        if (now - since).total_seconds() >= AGAIN:  # the pod has started before that
            return
        async for page in pages(self._kube, PODS, DECODER, namespace=namespace):
            for pod in page.objects:
                if pod.uid == uid:
                    if pod.bound_for(now) < AGAIN:
                        await self._teller.tell(Subject.of(pod), _told(pod, item))
                    return


def _told(pod: Pod, item: Object) -> Tell:
    reason = objects.text(item, "status", "reason")
    told = events.auto_create_failed(reason)
    return Tell(told, event_name(pod.name, pod.uid, told, of=failure(objects.uid(item), reason)))
