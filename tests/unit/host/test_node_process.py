"""The node process without a kernel and without containerd: readiness, collections, what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from grpclib.client import Channel, UnaryUnaryMethod

from imagecache._proto.containerd import snapshots_pb2 as pb
from imagecache.containerd.client import ContainerdClient
from imagecache.errors import StoreBusy
from imagecache.host import node_process
from imagecache.host.node_process import NodeProcess
from imagecache.snapshotter.container_starts import ContainerStarts
from imagecache.snapshotter.grpc_service import SERVICE
from imagecache.snapshotter.snapshotter import Snapshotter
from imagecache.store.store import Store
from imagecache.telemetry.metrics import Metrics
from testkit.clock import FakeClock
from testkit.mounts import FakeMounter
from testkit.store import MemoryLayers


@dataclass
class Duties:
    failure: Exception | None = None
    collects: bool = True
    files: list[Path] = field(default_factory=list)
    starts: list[ContainerStarts] = field(default_factory=list)

    def works(self, containerd: ContainerdClient, metrics: Metrics) -> Sequence[Coroutine[object, object, None]]:
        del containerd, metrics
        return (self._work(),)

    async def _work(self) -> None:
        if self.failure is not None:
            raise self.failure

    def serves(self, starts: ContainerStarts) -> None:
        self.starts.append(starts)

    def forgotten(self) -> None:
        """No guard here."""

    def used(self, layers: Iterable[Path]) -> None:
        self.files += layers


def process(tmp_path: Path, duties: Duties | None = None) -> NodeProcess:
    return NodeProcess(
        store=Store.open(tmp_path / "store"),
        containerd=ContainerdClient(tmp_path / "no.sock", FakeClock()),
        clock=FakeClock(),
        metrics=Metrics(),
        mode="proxy",
        duties=duties or Duties(),
        agent_root=tmp_path / "root",
        trim_delay=10.0,
        snapshotter=None,
        native=None,
    )


def value(metrics: Metrics, name: str) -> float:
    found = metrics.registry.get_sample_value(f"imagecache_{name}")
    assert found is not None
    return found


async def test_ready_at_once_where_nothing_is_served(tmp_path: Path) -> None:
    node, ready = process(tmp_path), asyncio.Event()
    assert node.problem()
    running = asyncio.create_task(node.run(tmp_path / "agent.sock", ready=ready.set))
    await ready.wait()

    assert node.problem() == ""
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_release_is_followed_by_a_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_process, "_COLLECT_DELAY", 0.0)
    node, ready = process(tmp_path), asyncio.Event()
    stray = node.store.paths.root / "layers/sha256/aa" / f"{'a' * 64}.erofs"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"x" * 4096)
    running = asyncio.create_task(node.run(tmp_path / "agent.sock", ready=ready.set))
    await ready.wait()
    assert stray.exists()

    await asyncio.to_thread(node.released)  # from a thread of the snapshotter
    while not value(node.metrics, "collected_bytes_total"):  # noqa: ASYNC110 - a counter has no event
        await asyncio.sleep(0.01)

    assert not stray.exists()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_lookups_are_counted_and_uses_passed_on(tmp_path: Path) -> None:
    duties = Duties()
    node = process(tmp_path, duties)
    node.looked_up(found=True)
    node.looked_up(found=False)
    node.looked_up(found=False)
    node.used([Path("/a")])

    assert value(node.metrics, "snapshotter_layer_hits_total") == 1
    assert value(node.metrics, "snapshotter_layer_misses_total") == 2
    assert duties.files == [Path("/a")]


async def test_a_failure_that_ends_the_process_is_that_error(tmp_path: Path) -> None:
    node = process(tmp_path, Duties(failure=StoreBusy("another process serves this root")))

    with pytest.raises(StoreBusy):
        await node.run(tmp_path / "agent.sock", ready=lambda: None)


async def test_a_store_that_vanishes_does_not_end_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_process, "_MEASURE_INTERVAL", 0.001)
    node = process(tmp_path)
    (tmp_path / "store").rename(tmp_path / "away")
    task = asyncio.ensure_future(node.run(tmp_path / "unused.sock", ready=lambda: None))
    await asyncio.sleep(0.05)
    assert not task.done()

    (tmp_path / "away").rename(tmp_path / "store")
    await asyncio.sleep(0.05)
    assert value(node.metrics, "store_free_bytes") > 0
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_the_duties_are_given_what_the_snapshotter_knows_of_starts(tmp_path: Path) -> None:
    duties, ready = Duties(), asyncio.Event()
    node = replace(
        process(tmp_path, duties),
        snapshotter=lambda _: Snapshotter(tmp_path / "root", MemoryLayers(), FakeMounter(), FakeClock()),
    )
    running = asyncio.create_task(node.run(tmp_path / "agent.sock", ready=ready.set))
    await ready.wait()
    (starts,) = duties.starts
    starts.follow("k8s.io")
    channel = Channel(path=str(tmp_path / "agent.sock"))
    prepare = UnaryUnaryMethod[pb.PrepareSnapshotRequest, pb.PrepareSnapshotResponse](
        channel, f"/{SERVICE}/Prepare", pb.PrepareSnapshotRequest, pb.PrepareSnapshotResponse
    )
    await prepare(pb.PrepareSnapshotRequest(key="k8s.io/1/c1"), timeout=10)
    channel.close()

    found = starts.take("c1")
    assert found is not None
    assert 0 < found.seconds < 10
    assert list(await starts.layers(found.key)) == []
    assert node.metrics.registry.get_sample_value("imagecache_snapshotter_call_seconds_count", {"method": "Prepare"})
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
