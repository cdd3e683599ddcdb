"""The task that writes this node's NodeImageCache: whenever its status has changed, at a limited rate.

It must not decide what the status is: ``report`` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from imagecache.agent import report
from imagecache.agent.dependencies import Node, Reporter
from imagecache.agent.rate_limit import RateLimit
from imagecache.agent.report import Facts
from imagecache.agent.supervision import failure_of
from imagecache.api.nodes import CacheState, NodeStatus
from imagecache.clock import Clock
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

_log = get_logger(__name__)
_RETRY = 5
"""Pauses until a report that failed is tried again, unless something changes before."""


class StatusReporter:
    """``changed`` and ``settled`` ask for a report; ``run`` writes it."""

    def __init__(self, reporter: Reporter, clock: Clock, metrics: Metrics, pause: float) -> None:
        """``pause``: seconds between two reports of what may wait: see ``RateLimit``."""
        self._reporter = reporter
        self._clock = clock
        self._metrics = metrics
        self._pause = pause
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()

    def changed(self) -> None:
        """Something may be different: progress, space, a problem."""
        self._changed.set()

    def settled(self) -> None:
        """A cache is ready or has failed: users wait for that, so it is reported at once."""
        self._settled.set()
        self._changed.set()

    async def run(self, observe: Callable[[], tuple[Facts, Node] | None]) -> None:
        """Until cancelled; ``observe`` returns None while the Node is not known."""
        written, owner, limit = NodeStatus(), "", RateLimit(self._pause)
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._settled.clear()
            observed = observe()
            if observed is not None:
                facts, node = observed
                status = report.status(facts, written, self._clock.now())
                # a Node with another uid is another Node: its NodeImageCache has no status yet
                if node.uid != owner or report.differs(status, written):
                    written, owner = (status, node.uid) if await self._write(status, node) else (written, owner)
                    limit.reported()
            await limit.wait(self._settled)

    async def _write(self, status: NodeStatus, node: Node) -> bool:
        for state in CacheState:
            count = sum(entry.state is state for entry in status.caches)
            self._metrics.caches.labels(state.value).set(count)
        problem = await failure_of(self._reporter.report(status, node))
        if problem is not None:
            _log.warning("status not reported", reason=problem.reason, problem=str(problem))
            asyncio.get_running_loop().call_later(self._pause * _RETRY, self._changed.set)
        return problem is None
