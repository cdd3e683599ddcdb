"""The builds whose layers this node fetches while they run, each in a task of its own.

A prefetch ends when it is cancelled, or when it fails; then it is tried again after a pause. It must not decide which
builds are worth it: ``plan`` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial

from imagecache.agent.dependencies import LayerSource
from imagecache.agent.failures import Failures
from imagecache.agent.supervision import failure_of
from imagecache.clock import Clock
from imagecache.concurrency import cancel_all
from imagecache.fetch.allowance import Allowance
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)


class Prefetches:
    """By id of the bundle that is being built."""

    def __init__(self, source: LayerSource, clock: Clock, garbage: Callable[[], None]) -> None:
        """``garbage`` is called when a prefetch has ended and nothing needs its layers."""
        self.failures = Failures()
        self._source = source
        self._clock = clock
        self._garbage = garbage
        self._allowance = Allowance()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._whole: Collection[str] = ()

    @property
    def running(self) -> tuple[str, ...]:
        return tuple(self._tasks)

    def update(self, bundle_ids: Collection[str], spare: int, whole: Collection[str]) -> None:
        """Prefetch these and no others, with ``spare`` bytes for all; ``whole`` are on the node."""
        self._whole = whole
        self._allowance.grant(spare)  # running ones too: what was spare may be needed now
        for name in self._tasks.keys() - set(bundle_ids):
            self._tasks[name].cancel()
        for name in bundle_ids:
            if name not in self._tasks:
                task = self._tasks[name] = asyncio.create_task(self._prefetch(name))
                task.add_done_callback(partial(self._ended, name))

    async def close(self) -> None:
        await cancel_all(self._tasks.values())

    async def _prefetch(self, bundle_id: str) -> None:
        error = await failure_of(self._source.prefetch(bundle_id, self._allowance))
        if error is not None:
            self.failures.note(bundle_id, error, self._clock.monotonic())
            _log.info("build not prefetched for now", bundle=bundle_id, reason=error.reason, problem=str(error))

    def _ended(self, bundle_id: str, _task: asyncio.Task[None]) -> None:
        """Remove the layers of a build that is no longer prefetched, unless it became a bundle on this node."""
        del self._tasks[bundle_id]
        if bundle_id not in self._whole:
            self._garbage()
