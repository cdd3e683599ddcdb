"""Once an hour, which caches running pods have started from: a pod that runs for months keeps its cache.

By the annotation that we have written; pods are read in pages, with pauses, and nothing of them is kept.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable

from imagecache.api import ids
from imagecache.clock import Clock
from imagecache.controller.pods.bare import BARE, Bare
from imagecache.controller.pods.caches import Caches
from imagecache.errors import KubernetesError
from imagecache.kube.api import ClusterKube
from imagecache.kube.resources import PODS
from imagecache.kube.stream import pages
from imagecache.match.keys import MATCHED
from imagecache.telemetry.log import get_logger

_FIRST = 60.0
"""Seconds after the start, when there is more to do."""
_INTERVAL = 3600.0
_PAUSE = 0.1
"""Seconds between two pages: 100,000 pods are 200 pages, of some 20 ms each."""
_log = get_logger(__name__)


class InUse:
    def __init__(
        self, kube: ClusterKube, caches: Caches, clock: Clock, used: Callable[[str, dt.datetime], None]
    ) -> None:
        """``used`` is called with the name of each cache that a running pod uses."""
        self._kube = kube
        self._caches = caches
        self._clock = clock
        self._used = used

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.sleep(_FIRST)
        while True:
            try:
                await self.look()
            except KubernetesError as error:
                _log.warning("running pods not read, will try again", problem=str(error))
            await asyncio.sleep(_INTERVAL)

    async def look(self) -> None:
        """Raises KubernetesError."""
        found: set[str] = set()
        async for page in pages(self._kube, PODS, BARE, fields="status.phase=Running"):
            found.update(name for pod in page.objects if (name := self._cache(pod)))
            await asyncio.sleep(_PAUSE)
        for name in sorted(found):
            self._used(name, self._clock.now())

    def _cache(self, pod: Bare) -> str:
        """Name of the cache that it started from, if that still exists; else empty."""
        matched = (pod.metadata.annotations or {}).get(MATCHED, "")
        cache = self._caches.index.pinned(matched) if ids.is_cache_id(matched) else None
        return cache.name if cache else ""
