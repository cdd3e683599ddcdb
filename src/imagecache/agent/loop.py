"""The agent's loop in a cluster: a round whenever something has changed, and a report of its outcome.

Nothing is done before the list of caches is complete and our Node is known, so an API server that is away changes
nothing here. It must not decide anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from imagecache.agent.attachments import Attachments
from imagecache.agent.dependencies import Dependencies, Node
from imagecache.agent.jobs import Jobs
from imagecache.agent.layer_uses import LayerUses
from imagecache.agent.report import Facts
from imagecache.agent.rounds import Rounds
from imagecache.agent.settings import LoopSettings
from imagecache.agent.status_reporter import StatusReporter
from imagecache.agent.supervision import failure_of
from imagecache.api.assignment import Cache
from imagecache.backoff import Backoff, Retries
from imagecache.errors import ImageCacheError
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)


class AgentLoop:
    """``run`` ends when it is cancelled; what was fetched and attached stays."""

    def __init__(self, dependencies: Dependencies, settings: LoopSettings | None = None) -> None:
        settings = settings or LoopSettings()
        state, clock, metrics = dependencies.state, dependencies.clock, dependencies.metrics
        attachments = Attachments(dependencies.attacher, state, clock, metrics, at_once=settings.attach)
        self._dependencies = dependencies
        self._uses = LayerUses(state, clock, settings.interval)
        self._reporter = StatusReporter(dependencies.reporter, clock, metrics, settings.report_pause)
        self._jobs = Jobs(dependencies, attachments, self._reporter, self.wake)
        self._rounds = Rounds(dependencies, settings, self._jobs, attachments, self._uses)
        self._retries = Retries(Backoff(settings.interval, settings.interval), _log)
        self._wake = asyncio.Event()
        self._caches: Sequence[Cache] | None = None
        self._node: Node | None = None
        self._problem: ImageCacheError | None = None

    def wake(self) -> None:
        """Start another round now."""
        self._wake.set()

    def used(self, layers: Iterable[Path]) -> None:
        """Containers start from these layer images. Callable from any thread; the next round writes it down."""
        self._uses.note(layers)

    async def run(self) -> None:
        await asyncio.to_thread(self._dependencies.state.load)  # first: it knows what earlier agents attached
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch_caches())
                group.create_task(self._watch_node())
                group.create_task(self._reporter.run(self._observed))
                group.create_task(self._run_rounds())
        finally:
            await self._jobs.close()

    async def _watch_caches(self) -> None:
        async for caches in self._dependencies.caches.watch():
            self._caches = caches
            self.wake()

    async def _watch_node(self) -> None:
        async for node in self._dependencies.nodes.watch():
            self._node = node
            self.wake()

    async def _run_rounds(self) -> None:
        while True:
            self._wake.clear()  # before looking: what changes during the round starts another one
            problem = None
            if self._caches is not None and self._node is not None:
                problem = await failure_of(self._rounds.run(self._caches, self._node))
            if problem is None:
                self._retries.succeeded()
            else:
                self._retries.failed(problem)
            self._problem = problem
            self._reporter.changed()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rounds.pause()):
                    await self._wake.wait()

    def _observed(self) -> tuple[Facts, Node] | None:
        return (self._rounds.facts(self._problem), self._node) if self._node is not None else None
