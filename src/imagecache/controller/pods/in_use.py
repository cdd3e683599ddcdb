"""Which caches are used though no pod is matched with them now: by one that runs for months, or that waits for it.

Once an hour running pods are looked at, by the annotation that we have written; they are read in pages, with pauses,
and nothing of them is kept.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Collection

from imagecache.api import ids
from imagecache.clock import Clock
from imagecache.concurrency import run_all
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
_WAITING = 300.0
"""Seconds between two looks at what is waited for: what was used ten minutes ago goes first when there is no room."""
_PAUSE = 0.1
"""Seconds between two pages: 100,000 pods are 200 pages, of some 20 ms each."""
_log = get_logger(__name__)


class InUse:
    def __init__(
        self,
        kube: ClusterKube,
        caches: Caches,
        clock: Clock,
        used: Callable[[str, dt.datetime], None],
        waited_for: Callable[[], Collection[str]],
    ) -> None:
        """``used`` is called with the name of each cache that is in use; ``waited_for`` names those of held pods."""
        self._kube = kube
        self._caches = caches
        self._clock = clock
        self._used = used
        self._waited_for = waited_for

    async def run(self) -> None:
        """Until cancelled."""
        await run_all(self._run_waiting(), self._run_running())

    async def _run_waiting(self) -> None:
        while True:
            await asyncio.sleep(_WAITING)
            self.look_at_waiting()

    def look_at_waiting(self) -> None:
        self._tell(self._waited_for())

    async def _run_running(self) -> None:
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
        self._tell(found)

    def _tell(self, names: Collection[str]) -> None:
        for name in sorted(names):
            self._used(name, self._clock.now())

    def _cache(self, pod: Bare) -> str:
        """Name of the cache that it started from, if that still exists; else empty."""
        matched = (pod.metadata.annotations or {}).get(MATCHED, "")
        cache = self._caches.index.pinned(matched) if ids.is_cache_id(matched) else None
        return cache.name if cache else ""
