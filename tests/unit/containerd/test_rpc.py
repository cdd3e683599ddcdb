"""Every way in which a socket can fail becomes one of our errors."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream

from imagecache._proto.containerd import version_pb2
from imagecache.clock import SystemClock
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.rpc import Connection
from imagecache.errors import (
    AlreadyExists,
    ContainerdMisconfigured,
    ContainerdUnavailable,
    ImageCacheError,
    NotFound,
    PrivilegeMissing,
)

METHOD, MANY = "test.Service/Call", "test.Service/Many"
Answer = Callable[[Stream[version_pb2.VersionResponse, version_pb2.VersionResponse]], Awaitable[None]]


class Service:
    def __init__(self) -> None:
        self.answer: Answer = self.echo

    async def echo(self, stream: Stream[version_pb2.VersionResponse, version_pb2.VersionResponse]) -> None:
        request = await stream.recv_message()
        assert request is not None
        await stream.send_message(request)

    async def handle(self, stream: Stream[version_pb2.VersionResponse, version_pb2.VersionResponse]) -> None:
        await self.answer(stream)

    def __mapping__(self) -> dict[str, Handler]:
        message = version_pb2.VersionResponse
        return {
            f"/{METHOD}": Handler(self.handle, Cardinality.UNARY_UNARY, message, message),
            f"/{MANY}": Handler(self.handle, Cardinality.UNARY_STREAM, message, message),
        }


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    service = Service()
    server = Server([service])
    await server.start(path=str(tmp_path / "s"))
    yield service
    server.close()
    await server.wait_closed()


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    connection = Connection(tmp_path / "s", deadline=20)
    yield connection
    connection.close()


def called(connection: Connection) -> Awaitable[version_pb2.VersionResponse]:
    return connection.call(METHOD, version_pb2.VersionResponse(version="x"), version_pb2.VersionResponse)


async def test_a_call(service: Service, connection: Connection) -> None:
    assert service
    assert (await called(connection)).version == "x"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status.NOT_FOUND, NotFound),
        (Status.ALREADY_EXISTS, AlreadyExists),
        (Status.UNAVAILABLE, ContainerdUnavailable),
        (Status.DEADLINE_EXCEEDED, ContainerdUnavailable),
        (Status.PERMISSION_DENIED, PrivilegeMissing),
        (Status.INVALID_ARGUMENT, ContainerdMisconfigured),
        (Status.UNKNOWN, ContainerdMisconfigured),
    ],
)
async def test_refusals(service: Service, connection: Connection, status: Status, error: type[ImageCacheError]) -> None:
    async def refuse(_: Stream[version_pb2.VersionResponse, version_pb2.VersionResponse]) -> None:
        raise GRPCError(status, "said so")

    service.answer = refuse
    with pytest.raises(error, match=r"refused test\.Service/Call: said so") as caught:
        await called(connection)
    assert isinstance(caught.value.__cause__, GRPCError)


async def test_no_answer_in_time(service: Service, tmp_path: Path) -> None:
    async def sleep(_: Stream[version_pb2.VersionResponse, version_pb2.VersionResponse]) -> None:
        await asyncio.Event().wait()

    service.answer = sleep
    connection = Connection(tmp_path / "s", deadline=0.2)
    with pytest.raises(ContainerdUnavailable, match="in time"):
        await called(connection)
    connection.close()


async def test_a_socket_nobody_listens_on(tmp_path: Path, connection: Connection) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(ContainerdUnavailable, match="does not listen") as caught:
            await called(connection)
    assert "systemctl start containerd" in caught.value.hint


async def test_no_socket(connection: Connection) -> None:
    with pytest.raises(ContainerdUnavailable, match="has no socket"):
        await called(connection)


async def test_no_permission(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    async def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", denied)
    with pytest.raises(PrivilegeMissing, match="no permission") as caught:
        await called(connection)
    assert caught.value.hint == "run as root"


async def test_something_that_does_not_speak_grpc(tmp_path: Path) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(hang_up, tmp_path / "s")
    async with server, ContainerdClient(tmp_path / "s", SystemClock(), deadline=1) as client:
        with pytest.raises(ContainerdUnavailable):
            await client.version()


async def test_a_stream_that_hangs_ends(service: Service, tmp_path: Path) -> None:
    never = asyncio.Event()

    async def hang(stream: Stream[version_pb2.VersionResponse, version_pb2.VersionResponse]) -> None:
        await Service.echo(service, stream)
        await never.wait()

    service.answer = hang
    connection = Connection(tmp_path / "s", deadline=0.2)
    message = version_pb2.VersionResponse
    with pytest.raises(ContainerdUnavailable, match="in time"):
        _ = [reply async for reply in connection.stream(MANY, message(version="x"), message)]
    connection.close()
