"""The agent's loop from end to end: a node's own store, a remote one in memory, fakes of cluster and runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import pytest
from tests.unit.cluster.conftest import Fetchers, Origin

from imagecache.api.nodes import CacheState, NodeCache, NodeStatus
from imagecache.cluster.ledger import Ledger
from imagecache.cluster.loop import ClusterLoop, LoopSettings, Outside
from imagecache.cluster.ports import Cache, Stock
from imagecache.cluster.stock import FetchedStock
from imagecache.store.model import SnapshotDocument
from imagecache.store.store import Store
from imagecache.testing.clock import FakeClock
from imagecache.testing.cluster_ports import FakeAttacher, FakeCaches, FakeMachine, FakeNodes, FakeReporter
from imagecache.testing.images import tar_of
from imagecache.testing.served import MemoryRemoteStore

A, B, C = (f"imc-{letter * 20}" for letter in "abc")
_SECONDS = 15
BASE = tar_of({"etc": None, "etc/base": b"b" * 300_000})


@dataclass
class Bench:
    """One node and all that is around it. ``start`` runs an agent that knows nothing but its disk."""

    store: Store
    origin: Origin
    fetchers: Fetchers
    clock: FakeClock = field(default_factory=FakeClock)
    caches: FakeCaches = field(default_factory=FakeCaches)
    nodes: FakeNodes = field(default_factory=FakeNodes)
    machine: FakeMachine = field(default_factory=FakeMachine)
    attacher: FakeAttacher = field(default_factory=FakeAttacher)
    reporter: FakeReporter = field(default_factory=FakeReporter)
    stock: Stock | None = None
    task: asyncio.Task[None] | None = None

    @property
    def remote(self) -> MemoryRemoteStore:
        return self.origin.remote

    def start(self, **settings: float) -> None:
        outside = Outside(
            caches=self.caches,
            nodes=self.nodes,
            machine=self.machine,
            stock=self.stock or FetchedStock(self.store, self.fetchers()),
            attacher=self.attacher,
            reporter=self.reporter,
            ledger=Ledger(self.store.paths.nodes / "worker"),
            clock=self.clock,
        )
        self.loop = ClusterLoop(outside, LoopSettings(report_pause=0.0, **settings))  # type: ignore[arg-type]
        self.task = asyncio.create_task(self.loop.run())

    async def kill(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.loop.wake()

    @property
    def status(self) -> NodeStatus:
        return self.reporter.written[-1] if self.reporter.written else NodeStatus()

    def entry(self, name: str = "a") -> NodeCache | None:
        return next((entry for entry in self.status.caches if entry.name == name), None)

    def state(self, name: str = "a") -> CacheState | None:
        entry = self.entry(name)
        return entry.state if entry else None

    def condition(self, kind: str) -> tuple[str, str]:
        return next(((each.status, each.reason) for each in self.status.conditions if each.type == kind), ("", ""))

    async def until(self, condition: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SECONDS
        while not condition():
            assert self.task is not None
            assert not self.task.done(), self.task.result()
            assert loop.time() < deadline, f"it never was; last seen: {self.status}"
            await asyncio.sleep(0.002)

    async def ready(self, *names: str) -> None:
        await self.until(lambda: all(self.state(name) is CacheState.READY for name in names or ("a",)))


def cache(name: str, snapshot_id: str, *, created: float = 1.0, **more: object) -> Cache:
    return replace(Cache(name, snapshot_id, ready=True, created=created), **more)  # type: ignore[arg-type]


@pytest.fixture
async def bench(origin: Origin, node: Store, fetchers: Fetchers) -> AsyncIterator[Bench]:
    bench = Bench(node, origin, fetchers)
    yield bench
    await bench.kill()


def names(document: SnapshotDocument) -> set[str]:
    return {f"docker.io/library/{image.reference}" for image in document.images}


async def test_a_new_node_gets_what_is_meant_for_it(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    await bench.origin.build(B, BASE, tar_of({"opt/b": b"b"}), name="tool:2")
    await bench.origin.build(C, tar_of({"c": b"c"}), name="else:3")
    bench.caches.put(cache("a", A), cache("b", B, selector="pool=gpu"), cache("c", C, selector="pool=cpu"))
    bench.start()

    await bench.ready("a", "b")

    assert bench.entry("c") is None
    assert {"docker.io/library/app:1", "docker.io/library/tool:2"} <= bench.attacher.records.keys()
    assert set(bench.store.snapshots.ids()) == {A, B}
    entry = bench.entry("b")
    assert entry is not None
    assert entry.bytes_done == entry.bytes_total > 300_000
    assert bench.status.mode == "proxy"
    assert bench.condition("Ready") == ("True", "Working")
    assert bench.status.capacity_bytes == int(bench.machine.size.capacity * 0.83)
