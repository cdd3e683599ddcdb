"""One node with an agent's loop: a store of its own, a remote one in memory, fakes of the cluster and the runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from imagecache.agent.dependencies import Attacher, Dependencies, LayerSource
from imagecache.agent.layer_source import FetchedLayerSource
from imagecache.agent.loop import AgentLoop
from imagecache.agent.settings import LoopSettings
from imagecache.agent.state import NodeState
from imagecache.api.assignment import Cache
from imagecache.api.nodes import CacheState, NodeCache, NodeStatus
from imagecache.store.store import Store
from imagecache.telemetry.metrics import Metrics
from testkit.agent_dependencies import FakeAttacher, FakeCaches, FakeMachine, FakeNodes, FakeReporter
from testkit.clock import FakeClock
from testkit.served import MemoryRemoteStore
from tests.unit.fetch.origin import Fetchers, Origin

_SECONDS = 15


@dataclass
class Bench:
    """``start`` runs an agent that has only its disk; after ``kill`` another one may start."""

    store: Store
    origin: Origin
    fetchers: Fetchers
    clock: FakeClock = field(default_factory=FakeClock)
    caches: FakeCaches = field(default_factory=FakeCaches)
    nodes: FakeNodes = field(default_factory=FakeNodes)
    machine: FakeMachine = field(default_factory=FakeMachine)
    attacher: FakeAttacher = field(default_factory=FakeAttacher)
    reporter: FakeReporter = field(default_factory=FakeReporter)
    source: LayerSource | None = None
    runtime: Attacher | None = None
    """Instead of ``attacher``."""
    metrics: Metrics = field(default_factory=Metrics)
    task: asyncio.Task[None] | None = None

    @property
    def remote(self) -> MemoryRemoteStore:
        return self.origin.remote

    def __post_init__(self) -> None:
        self.caches.as_shown = self._as_shown

    def _as_shown(self, cache: Cache) -> Cache:
        """With what the controller writes into the status of a cache whose bundle is in its store."""
        known = cache.expected is None and cache.id in self.remote.bundles
        return replace(cache, expected=self.remote.expected(cache.id)) if known else cache

    def start(self, settings: LoopSettings | None = None) -> None:
        dependencies = Dependencies(
            caches=self.caches,
            nodes=self.nodes,
            machine=self.machine,
            source=self.source or FetchedLayerSource(self.store, self.fetchers()),
            attacher=self.runtime or self.attacher,
            reporter=self.reporter,
            state=NodeState(self.store.paths.nodes / "worker"),
            clock=self.clock,
            metrics=self.metrics,
        )
        self.loop = AgentLoop(dependencies, replace(settings or LoopSettings(), report_pause=0.0))
        self.machine.stored = lambda: sum(self.store.layers.size(name) for name in self.store.layers.names())
        self.reporter.written.clear()
        self.task = asyncio.create_task(self.loop.run())
        self.caches.show()

    async def kill(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.loop.wake()

    # what the node reports

    @property
    def status(self) -> NodeStatus:
        return self.reporter.written[-1] if self.reporter.written else NodeStatus()

    def entry(self, name: str = "a") -> NodeCache | None:
        return next((entry for entry in self.status.caches if entry.name == name), None)

    def state(self, name: str = "a") -> CacheState | None:
        entry = self.entry(name)
        return entry.state if entry else None

    def reason(self, name: str = "a") -> str:
        entry = self.entry(name)
        return entry.reason if entry else ""

    def condition(self, kind: str) -> tuple[str, str]:
        return next(((each.status, each.reason) for each in self.status.conditions if each.type == kind), ("", ""))

    async def until(self, condition: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SECONDS
        while not condition():
            assert self.task is not None
            assert not self.task.done(), self.task.result()
            assert loop.time() < deadline, f"timed out; last seen: {self.status}"
            await asyncio.sleep(0.002)

    async def ready(self, *names: str) -> None:
        await self.until(lambda: all(self.state(name) is CacheState.READY for name in names or ("a",)))

    async def rounds(self, count: int = 3) -> None:
        """Let the loop run some more rounds."""
        for _ in range(count):
            before = self.machine.looks
            self.loop.wake()
            await self.until(lambda before=before: self.machine.looks > before)  # type: ignore[misc]  # bound at once


def cache(name: str, bundle_id: str, *, created: float = 1.0, **more: object) -> Cache:
    return replace(Cache(name, bundle_id, ready=True, created=created), **more)  # type: ignore[arg-type]
