"""One node with an agent's loop: a store of its own, a remote one in memory, fakes of the cluster and the runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from imagecache.api.nodes import CacheState, NodeCache, NodeStatus
from imagecache.build.builder import BuildSettings, ImageBuilder
from imagecache.clock import SystemClock
from imagecache.cluster.fetch import SnapshotFetcher
from imagecache.cluster.follow import FollowSettings
from imagecache.cluster.layers import FetchSettings
from imagecache.cluster.ledger import Ledger
from imagecache.cluster.loop import ClusterLoop, LoopSettings, Outside
from imagecache.cluster.ports import Attacher, Cache, Stock
from imagecache.cluster.stock import FetchedStock
from imagecache.erofs.header import DATA_START
from imagecache.limits import GIB
from imagecache.oci.descriptor import Platform
from imagecache.served.directory import StoreReader
from imagecache.store.model import LayerRecord, SnapshotDocument
from imagecache.store.store import Store
from imagecache.testing.clock import FakeClock
from imagecache.testing.cluster_ports import FakeAttacher, FakeCaches, FakeMachine, FakeNodes, FakeReporter
from imagecache.testing.images_oci import memory_image
from imagecache.testing.registry import MemorySource
from imagecache.testing.served import MemoryRemoteStore

_SECONDS = 15
SMALL = FetchSettings(range_size=64 << 10)
FOLLOW = FollowSettings(range_size=64 << 10, pause=0.001, longest_pause=0.01)


@dataclass
class Origin:
    """Where snapshots are built."""

    root: Path
    remote: MemoryRemoteStore = field(default_factory=MemoryRemoteStore)

    async def build(self, snapshot_id: str, *tars: bytes, name: str = "app:1") -> SnapshotDocument:
        store = Store.open(self.root)
        source = MemorySource({name: memory_image(tars)})
        builder = ImageBuilder(store, SystemClock(), BuildSettings(jobs=1))
        document = await builder.build(
            snapshot_id,
            [name],
            platform=Platform(os="linux", architecture="amd64"),
            size_limit=GIB,
            source=source,
            emit=lambda _event: None,
        )
        self.remote.add_store(StoreReader(self.root), snapshot_id)
        return document


class Making:
    """A layer image that a build has not finished yet; it takes a finished one back."""

    def __init__(self, remote: MemoryRemoteStore, layer: LayerRecord) -> None:
        self.name = layer.name
        self.content = remote.layers.pop(layer.name)
        self._tar_end = DATA_START + layer.tar_size
        self._so_far = self.content
        self._remote = remote

    @property
    def sent(self) -> int:
        """Bytes that went out."""
        return self._remote.fetched[self.name]

    def grow(self, end: int) -> None:
        """Bytes of the file that are written; of the tar only, and its head means nothing."""
        self._remote.unfinished[self.name] = bytes(DATA_START) + self._so_far[DATA_START : min(end, self._tar_end)]

    def spoil(self, at: int) -> None:
        """What is told before ``finish`` is wrong at this byte."""
        self._so_far = self.content[:at] + bytes([self.content[at] ^ 1]) + self.content[at + 1 :]

    def finish(self) -> None:
        self._remote.layers[self.name] = self.content
        self.give_up()

    def give_up(self) -> None:
        self._remote.unfinished.pop(self.name, None)


Fetchers = Callable[..., SnapshotFetcher]


@dataclass
class Bench:
    """``start`` runs an agent that knows nothing but its disk; after ``kill`` another one may start."""

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
    runtime: Attacher | None = None
    """Instead of ``attacher``."""
    task: asyncio.Task[None] | None = None

    @property
    def remote(self) -> MemoryRemoteStore:
        return self.origin.remote

    def start(self, settings: LoopSettings | None = None) -> None:
        outside = Outside(
            caches=self.caches,
            nodes=self.nodes,
            machine=self.machine,
            stock=self.stock or FetchedStock(self.store, self.fetchers()),
            attacher=self.runtime or self.attacher,
            reporter=self.reporter,
            ledger=Ledger(self.store.paths.nodes / "worker"),
            clock=self.clock,
        )
        self.loop = ClusterLoop(outside, replace(settings or LoopSettings(), report_pause=0.0))
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

    # what the node says

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
            assert loop.time() < deadline, f"it never was; last seen: {self.status}"
            await asyncio.sleep(0.002)

    async def ready(self, *names: str) -> None:
        await self.until(lambda: all(self.state(name) is CacheState.READY for name in names or ("a",)))

    async def rounds(self, count: int = 3) -> None:
        """Let the loop look some times more."""
        for _ in range(count):
            before = self.stocktakings()
            self.loop.wake()
            await self.until(lambda before=before: self.stocktakings() > before)  # type: ignore[misc]  # bound at once

    def stocktakings(self) -> int:
        return self.machine.looks


def cache(name: str, snapshot_id: str, *, created: float = 1.0, **more: object) -> Cache:
    return replace(Cache(name, snapshot_id, ready=True, created=created), **more)  # type: ignore[arg-type]
