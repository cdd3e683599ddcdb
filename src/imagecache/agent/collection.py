"""Collections of the node's store: one at a time, and only when something may have become garbage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from imagecache.agent.dependencies import LayerSource
from imagecache.agent.supervision import failure_of
from imagecache.concurrency import cancel_all
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)


class Collection:
    """``due`` is set by jobs that leave garbage; a collection that failed is due again."""

    def __init__(self, source: LayerSource, ended: Callable[[], None]) -> None:
        """``ended`` is called after a collection that worked."""
        self.due = True  # an agent that was killed may have left garbage
        self._source = source
        self._ended = ended
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start one, if one is due and none runs."""
        if self.due and self._task is None:
            self.due = False
            self._task = asyncio.create_task(self._collect())

    async def close(self) -> None:
        await cancel_all([self._task] if self._task else [])

    async def _collect(self) -> None:
        problem = await failure_of(self._source.collect())
        self._task = None
        if problem is None:
            self._ended()
        else:
            self.due = True
            _log.warning("collection failed", reason=problem.reason, problem=str(problem))
