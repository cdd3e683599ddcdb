"""What the agent of a host without a cluster looks after: this host's own ImageCache objects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path

from imagecache.api.types import Phase
from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.host.node_process import every
from imagecache.standalone.controller import Controller
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

_log = get_logger(__name__)
_ATTACH_INTERVAL = 5.0
_EXPIRE_INTERVAL = 60.0


class StandaloneDuties:
    """``host.node_process.Duties``."""

    collects = True

    def __init__(self, controller: Controller, clock: Clock) -> None:
        self._controller = controller
        self._clock = clock
        self._attached: set[str] = set()

    def used(self, layers: Iterable[Path]) -> None:
        """Nothing: no budget here."""

    def works(self, containerd: ContainerdClient, metrics: Metrics) -> Sequence[Coroutine[object, object, None]]:
        del containerd
        return (every(_ATTACH_INTERVAL, lambda: self._attach(metrics)), every(_EXPIRE_INTERVAL, self._expire))

    async def _attach(self, metrics: Metrics) -> None:
        """Attach what is wanted here and was not attached since this process started (containerd may be a new one)."""
        for cache in await asyncio.to_thread(self._controller.list):
            status = cache.status
            if status is None or status.phase is not Phase.READY or status.image_cache_id in self._attached:
                continue
            if status.nodes is not None and status.nodes.desired:
                start = self._clock.monotonic()
                done = await self._controller.attach(cache.name)
                metrics.attach_seconds.observe(self._clock.monotonic() - start)
                metrics.attached_images.inc(len(done.images))
            self._attached.add(status.image_cache_id)

    async def _expire(self) -> None:
        expired = await self._controller.expire()
        for deleted in expired.deleted:
            _log.info("image cache expired", name=deleted.cache.name)
        for name, error in expired.failed:
            _log.warning("image cache cannot be deleted yet", name=name, reason=error.reason, problem=str(error))
