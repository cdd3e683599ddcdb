"""The gRPC edge, by a real client on a real socket: codes, batches, deadlines, sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from imagecache import errors
from imagecache._proto.containerd import snapshots_pb2 as pb
from imagecache.digest import ChainID, Digest
from imagecache.errors import ImageCacheError
from imagecache.snapshotter.grpc_errors import message_of, status_of
from imagecache.snapshotter.grpc_server import listen, serve
from imagecache.snapshotter.grpc_service import BATCH, SERVICE, Answered, ignore
from imagecache.snapshotter.snapshot import REF_LABEL
from imagecache.store.layers import ServedLayer
from testkit.peers.processes import wait_until
from testkit.snapshotter import SETTINGS, SnapshotterRig
from testkit.store import MemoryLayers

REPLIES: dict[str, type[Message]] = {
    "Prepare": pb.PrepareSnapshotResponse,
    "View": pb.ViewSnapshotResponse,
    "Mounts": pb.MountsResponse,
    "Stat": pb.StatSnapshotResponse,
    "Update": pb.UpdateSnapshotResponse,
    "Usage": pb.UsageResponse,
}


class Client:
    """Containerd's side of the socket."""

    def __init__(self, path: Path) -> None:
        self.channel = Channel(path=str(path))

    async def call(self, method: str, request: Message) -> Message:
        reply = REPLIES.get(method, Empty)
        stub = UnaryUnaryMethod(self.channel, f"/{SERVICE}/{method}", type(request), reply)
        answer: Message = await stub(request, timeout=20)
        return answer

    async def code(self, method: str, request: Message) -> Status:
        try:
            await self.call(method, request)
        except GRPCError as error:
            return error.status
        return Status.OK

    async def batches(self, *filters: str) -> list[list[str]]:
        stub = UnaryStreamMethod(self.channel, f"/{SERVICE}/List", pb.ListSnapshotsRequest, pb.ListSnapshotsResponse)
        answers = await stub(pb.ListSnapshotsRequest(filters=filters), timeout=20)
        return [[info.name for info in answer.info] for answer in answers]


async def eventually(condition: Callable[[], bool]) -> bool:
    return await asyncio.to_thread(wait_until, condition, seconds=10, every=0.01)


@contextlib.asynccontextmanager
async def serving(
    rig: SnapshotterRig,
    address: Path | socket.socket,
    path: Path,
    answered: Answered = ignore,
    connections: int = 128,
) -> AsyncIterator[Client]:
    ready = asyncio.Event()
    work = serve(rig.snapshotter, address, ready=ready.set, answered=answered, connections=connections)
    task = asyncio.create_task(work)
    await asyncio.wait_for(ready.wait(), 10)
    client = Client(path)
    try:
        yield client
    finally:
        client.channel.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def client(rig: SnapshotterRig, tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(rig, tmp_path / "s", tmp_path / "s") as running:
        yield running


async def test_a_life(client: Client, rig: SnapshotterRig) -> None:
    prepared = await client.call("Prepare", pb.PrepareSnapshotRequest(key="a", labels={"x": "1"}))
    assert isinstance(prepared, pb.PrepareSnapshotResponse)
    (mount,) = prepared.mounts
    assert (mount.type, list(mount.options)) == ("bind", ["rw", "rbind"])
    assert await client.call("Mounts", pb.MountsRequest(key="a")) == pb.MountsResponse(mounts=[mount])
    await client.call("Commit", pb.CommitSnapshotRequest(name="c", key="a", labels={"y": "2"}))
    viewed = await client.call("View", pb.ViewSnapshotRequest(key="v", parent="c"))
    assert isinstance(viewed, pb.ViewSnapshotResponse)
    assert viewed.mounts[0].options == ["ro", "rbind"]

    stat = await client.call("Stat", pb.StatSnapshotRequest(key="v"))
    assert isinstance(stat, pb.StatSnapshotResponse)
    assert (stat.info.kind, stat.info.parent) == (pb.VIEW, "c")
    assert stat.info.created_at.ToDatetime(tzinfo=rig.clock.now().tzinfo) == rig.clock.now()
    request = pb.UpdateSnapshotRequest(info=pb.Info(name="c", labels={"z": "3"}))
    request.update_mask.paths.append("labels.z")
    updated = await client.call("Update", request)
    assert isinstance(updated, pb.UpdateSnapshotResponse)
    assert dict(updated.info.labels) == {"y": "2", "z": "3"}
    usage = await client.call("Usage", pb.UsageRequest(key="c"))
    assert isinstance(usage, pb.UsageResponse)
    assert usage.inodes == 1
    for key in ("v", "c"):
        await client.call("Remove", pb.RemoveSnapshotRequest(key=key))
    await client.call("Cleanup", pb.CleanupRequest())
    assert await client.batches() == []
    assert list((rig.root / "snapshots").iterdir()) == []


async def test_codes(client: Client, rig: SnapshotterRig) -> None:
    base = rig.commit("base")
    rig.snapshotter.prepare("a", base)
    rig.snapshotter.view("v", base)
    mask = pb.UpdateSnapshotRequest(info=pb.Info(name="a"))
    mask.update_mask.paths.append("kind")
    for method, request, status in (
        ("Prepare", pb.PrepareSnapshotRequest(key="a"), Status.ALREADY_EXISTS),
        ("View", pb.ViewSnapshotRequest(key=base), Status.ALREADY_EXISTS),
        ("Prepare", pb.PrepareSnapshotRequest(key="b", parent="unknown"), Status.NOT_FOUND),
        ("Prepare", pb.PrepareSnapshotRequest(key="b", parent="a"), Status.INVALID_ARGUMENT),
        ("Mounts", pb.MountsRequest(key="unknown"), Status.NOT_FOUND),
        ("Mounts", pb.MountsRequest(key=base), Status.FAILED_PRECONDITION),
        ("Commit", pb.CommitSnapshotRequest(name=base, key="a"), Status.ALREADY_EXISTS),
        ("Commit", pb.CommitSnapshotRequest(name="c", key="unknown"), Status.NOT_FOUND),
        ("Commit", pb.CommitSnapshotRequest(name="c", key="v"), Status.FAILED_PRECONDITION),
        ("Remove", pb.RemoveSnapshotRequest(key="unknown"), Status.NOT_FOUND),
        ("Remove", pb.RemoveSnapshotRequest(key=base), Status.FAILED_PRECONDITION),
        ("Stat", pb.StatSnapshotRequest(key="unknown"), Status.NOT_FOUND),
        ("Usage", pb.UsageRequest(key="unknown"), Status.NOT_FOUND),
        ("Update", pb.UpdateSnapshotRequest(info=pb.Info(name="unknown")), Status.NOT_FOUND),
        ("Update", mask, Status.INVALID_ARGUMENT),
    ):
        assert await client.code(method, request) is status, (method, request)
    with pytest.raises(GRPCError) as caught:
        await client.batches("name=x")
    assert caught.value.status is Status.INVALID_ARGUMENT


async def test_a_served_layer_is_already_there(client: Client, rig: SnapshotterRig) -> None:
    (layer,) = rig.image("base")
    request = pb.PrepareSnapshotRequest(
        key=rig.key(f"extract-1-a {layer.chain_id}"), labels={REF_LABEL: layer.chain_id}
    )

    assert await client.code("Prepare", request) is Status.ALREADY_EXISTS
    assert await client.batches(f'labels."{REF_LABEL}"=={layer.chain_id},parent==""') == [rig.names]


async def test_each_call_is_reported_with_its_snapshot_and_its_time(rig: SnapshotterRig, tmp_path: Path) -> None:
    calls: list[tuple[str, str, str, float]] = []

    def answered(method: str, key: str, code: str, seconds: float) -> None:
        calls.append((method, key, code, seconds))

    (layer,) = rig.image("base")
    unpack = rig.key(f"extract-1-a {layer.chain_id}")
    async with serving(rig, tmp_path / "s", tmp_path / "s", answered) as client:
        await client.code("Prepare", pb.PrepareSnapshotRequest(key=unpack, labels={REF_LABEL: layer.chain_id}))
        await client.call("Prepare", pb.PrepareSnapshotRequest(key="a", parent=rig.names[0]))
        await client.call("Mounts", pb.MountsRequest(key="a"))
        await client.code("Mounts", pb.MountsRequest(key="unknown"))
        await client.batches()
        await client.call("Remove", pb.RemoveSnapshotRequest(key="a"))
        assert await eventually(lambda: len(calls) == 6)

    assert [call[:3] for call in calls] == [
        ("Prepare", unpack, "ALREADY_EXISTS"),
        ("Prepare", "a", "OK"),
        ("Mounts", "a", "OK"),
        ("Mounts", "unknown", "NOT_FOUND"),
        ("List", "", "OK"),
        ("Remove", "a", "OK"),
    ]
    assert all(0 <= seconds < 10 for *_, seconds in calls)


async def test_what_a_clean_up_left_goes_soon_after_it_is_free(client: Client, rig: SnapshotterRig) -> None:
    """containerd asks once."""
    names = rig.pull(rig.image("base", "app"))
    rig.mounter.busy.add(rig.root / "m/1")
    for name in reversed(names):
        await client.call("Remove", pb.RemoveSnapshotRequest(key=name))
    await client.call("Cleanup", pb.CleanupRequest())
    assert len(rig.held) == 1
    rig.mounter.busy.clear()

    assert await eventually(lambda: not rig.held)
    assert not rig.mounter.mounts


async def test_what_is_removed_during_a_clean_up_goes_too(client: Client, rig: SnapshotterRig) -> None:
    """The clean-up of one call does not know it, and that of the other finds the first one running."""
    (first,), (second,) = rig.pull(rig.image("base")), rig.pull(rig.image("other"))
    rig.snapshotter.remove(first)
    rig.mounter.unmounting.clear()
    cleaning = asyncio.create_task(asyncio.to_thread(rig.snapshotter.cleanup))
    assert await eventually(lambda: ("unmount", rig.root / "m/1") in rig.mounter.calls)
    await client.call("Remove", pb.RemoveSnapshotRequest(key=second))
    await client.call("Cleanup", pb.CleanupRequest())
    rig.mounter.unmounting.set()
    assert await cleaning
    assert await eventually(lambda: not rig.held)


async def test_a_list_comes_in_batches_of_one_moment(client: Client, rig: SnapshotterRig) -> None:
    for number in range(2 * BATCH + 1):
        rig.snapshotter.prepare(f"{number}")

    assert [len(batch) for batch in await client.batches()] == [BATCH, BATCH, 1]


async def test_a_hanging_mount_hangs_nobody_else(tmp_path: Path) -> None:
    settings = replace(SETTINGS, mounting_threads=1, mounting_deadline=0.2, lock_wait=5)
    rig = SnapshotterRig(tmp_path / "root", settings)
    (layer,) = rig.image("base")
    labels = {REF_LABEL: str(layer.chain_id)}
    async with serving(rig, tmp_path / "s", tmp_path / "s") as client:
        rig.mounter.gate.clear()
        hanging = pb.PrepareSnapshotRequest(key=f"extract-1-a {layer.chain_id}", labels=labels)
        waiting = pb.PrepareSnapshotRequest(key="container")

        assert await client.code("Prepare", hanging) is Status.DEADLINE_EXCEEDED
        assert await client.code("Prepare", waiting) is Status.DEADLINE_EXCEEDED, "all threads for mounts are taken"
        assert await client.batches() == []
        assert await client.code("Cleanup", pb.CleanupRequest()) is Status.OK
        assert await client.code("Remove", pb.RemoveSnapshotRequest(key="x")) is Status.NOT_FOUND
        rig.mounter.gate.set()
    rig.snapshotter.close()


class _Broken(MemoryLayers):
    def lookup(self, chain_id: ChainID, repository: str = "") -> ServedLayer | None:
        raise RuntimeError(f"no idea about {chain_id} {repository}".rstrip())


async def test_a_bug_of_ours_is_internal_and_the_next_call_works(tmp_path: Path) -> None:
    rig = SnapshotterRig(tmp_path / "root", layers=_Broken())
    chain = Digest.sha256(b"chain")
    async with serving(rig, tmp_path / "s", tmp_path / "s") as client:
        request = pb.PrepareSnapshotRequest(key=f"extract-1-a {chain}", labels={REF_LABEL: chain})
        assert await client.code("Prepare", request) is Status.INTERNAL
        assert await client.code("Prepare", pb.PrepareSnapshotRequest(key="a")) is Status.OK
    rig.snapshotter.close()


async def test_health(client: Client) -> None:
    for service in ("", SERVICE):
        stub = UnaryUnaryMethod(client.channel, "/grpc.health.v1.Health/Check", HealthCheckRequest, HealthCheckResponse)
        answer = await stub(HealthCheckRequest(service=service))
        assert answer.status == HealthCheckResponse.SERVING


async def test_connections_without_a_call_keep_nobody_out(rig: SnapshotterRig, tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(rig, path, path, connections=4) as client:
        silent = [await asyncio.open_unix_connection(str(path)) for _ in range(12)]
        try:
            assert await client.code("Stat", pb.StatSnapshotRequest(key="unknown")) is Status.NOT_FOUND
            for reader, _writer in silent[:8]:
                await asyncio.wait_for(_ended(reader), 10)
            assert await client.code("Stat", pb.StatSnapshotRequest(key="unknown")) is Status.NOT_FOUND
        finally:
            for _reader, writer in silent:
                writer.close()


async def _ended(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass


async def test_a_connection_with_a_call_is_not_closed_for_another_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    rig = SnapshotterRig(tmp_path / "root", replace(SETTINGS, mounting_deadline=20))
    (layer,) = rig.image("base")
    request = pb.PrepareSnapshotRequest(key=f"extract-1-a {layer.chain_id}", labels={REF_LABEL: str(layer.chain_id)})
    async with serving(rig, path, path, connections=2) as busy:
        rig.mounter.gate.clear()
        call = asyncio.create_task(busy.code("Prepare", request))
        silent = []
        try:
            assert await eventually(rig.mounter.entered.is_set)
            silent = [await asyncio.open_unix_connection(str(path)) for _ in range(6)]
            await asyncio.wait_for(_ended(silent[0][0]), 10)
        finally:
            rig.mounter.gate.set()
        assert await call is Status.ALREADY_EXISTS
        for _reader, writer in silent:
            writer.close()
    rig.snapshotter.close()


async def test_our_own_socket_is_for_root_and_goes_with_us(rig: SnapshotterRig, tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    for _ in range(2):
        async with serving(rig, path, path) as client:
            assert path.stat().st_mode & 0o777 == 0o600
            assert await client.batches() == []
        assert list(path.parent.iterdir()) == []


async def test_a_socket_that_a_killed_process_left_is_replaced(rig: SnapshotterRig, tmp_path: Path) -> None:
    path = tmp_path / "s"
    listen(path).close()
    async with serving(rig, path, path) as client:
        assert await client.batches() == []


async def test_an_inherited_socket_is_served_and_stays(rig: SnapshotterRig, tmp_path: Path) -> None:
    path = tmp_path / "s"
    held = listen(path)
    async with serving(rig, held.dup(), path) as client:
        assert await client.batches() == []

    client = Client(path)
    waiting = asyncio.create_task(client.batches())
    await asyncio.sleep(0)
    assert not waiting.done(), "callers wait while we restart"
    async with serving(rig, held.dup(), path):
        assert await waiting == []
        client.channel.close()
    held.close()


async def test_a_call_in_flight_is_answered_when_we_stop(rig: SnapshotterRig, tmp_path: Path) -> None:
    (layer,) = rig.image("base")
    key = f"extract-1-a {layer.chain_id}"
    rig.mounter.gate.clear()
    ready = asyncio.Event()
    task = asyncio.create_task(serve(rig.snapshotter, tmp_path / "s", ready=ready.set))
    await ready.wait()
    client = Client(tmp_path / "s")
    call = asyncio.create_task(
        client.code("Prepare", pb.PrepareSnapshotRequest(key=key, labels={REF_LABEL: layer.chain_id}))
    )
    await asyncio.to_thread(rig.mounter.entered.wait, 10)
    task.cancel()
    rig.mounter.gate.set()

    assert await call is Status.ALREADY_EXISTS
    client.channel.close()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert rig.mounter.mounts, "mounts stay when we stop"


def _concrete(kind: type[ImageCacheError]) -> list[type[ImageCacheError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _concrete(child))]


@pytest.mark.parametrize(
    "kind", _concrete(errors.SnapshotError) + _concrete(errors.StoreError) + _concrete(errors.HostError)
)
def test_every_error_of_ours_has_a_code_and_says_what_to_do(kind: Callable[..., ImageCacheError]) -> None:
    error = kind("something happened", hint="do something")

    assert status_of(error) not in {Status.OK, Status.UNKNOWN}
    assert message_of(error) == "something happened; do something"
