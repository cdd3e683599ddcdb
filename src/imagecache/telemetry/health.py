"""A small HTTP server for /livez, /readyz and /metrics, and a client that asks one.

GET only, one request per connection, bounded in size, time and number: it is for kubelet, systemd and Prometheus on the
loopback or behind a network policy. ``live`` and ``ready`` return the problem, or nothing. It must not know what they
check.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from http import HTTPStatus

from imagecache.concurrency import cancel_all
from imagecache.connection_limit import LoopConnections, OpenConnection
from imagecache.errors import HostError, InvalidSetting
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import CONTENT_TYPE, Metrics
from imagecache.written import printable

_REQUEST_SECONDS = 5.0
_RETRY_SECONDS = 5.0
_HEADER_BYTES = 8 * 1024
_CONNECTIONS = 64
"""At a time. An answer takes milliseconds, so the oldest of so many is not one that anybody waits for."""
_log = get_logger(__name__)
_TEXT = "text/plain; charset=utf-8"
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}  # noqa: S104 - an address to connect to instead

Problem = Callable[[], str]
"""What is wrong; empty when healthy. Returns at once: it is called in the event loop."""


def _fine() -> str:
    return ""


class HealthServer:
    """Listens while its context is open."""

    def __init__(
        self, metrics: Metrics, *, live: Problem = _fine, ready: Problem = _fine, connections: int = _CONNECTIONS
    ) -> None:
        self._metrics = metrics
        self._connections = LoopConnections(connections)
        self._checks = {"/livez": live, "/readyz": ready}
        self._server: asyncio.Server | None = None
        self._trying: asyncio.Task[None] | None = None

    async def start(self, address: str) -> tuple[str, int]:
        """Listen at ``host:port`` (port 0: any) and return where. Raises InvalidSetting, HostError."""
        host, port = _split(address)
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=_HEADER_BYTES)
        except OSError as error:
            raise HostError(f"cannot listen at {address}: {error.strerror}", hint="set metrics_address") from error
        name = self._server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def start_when_free(self, address: str, pause: float = _RETRY_SECONDS) -> None:
        """Listen there as soon as that is possible, for who must work without probes too. Raises InvalidSetting.

        An empty address: nowhere.
        """
        if not address:
            return
        try:
            await self.start(address)
        except HostError as error:
            _log.warning("no probes yet, will try again", problem=str(error), hint=error.hint)
            self._trying = asyncio.create_task(self._try(address, pause))

    async def _try(self, address: str, pause: float) -> None:
        while self._server is None:
            await asyncio.sleep(pause)
            with contextlib.suppress(HostError):
                await self.start(address)

    async def stop(self) -> None:
        """Idempotent."""
        if self._trying is not None:
            await cancel_all([self._trying])
            self._trying = None
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Never busy: one that does not read its answer must not stay for longer than one that does not ask.
        connection = OpenConnection(writer.transport.abort)
        self._connections.add(connection)
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a client that is slow, gone or sends too much gets no answer
        finally:
            self._connections.remove(connection)
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method != "GET":
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"GET only\n")
        if path == "/metrics":
            return _response(HTTPStatus.OK, CONTENT_TYPE, self._metrics.render())
        check = self._checks.get(path)
        if check is None:
            return _response(HTTPStatus.NOT_FOUND, _TEXT, b"/livez, /readyz, /metrics\n")
        problem = check()
        if problem:
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, f"{printable(problem)}\n".encode())
        return _response(HTTPStatus.OK, _TEXT, b"ok\n")


async def problem_at(address: str, path: str, *, seconds: float) -> str:
    """What the health server at ``host:port`` answers, or why it does not; empty when all is well. Never raises."""
    url = f"http://{address}{path}"
    try:
        host, port = _split(address)
        url = f"http://{_ANY.get(host, host)}:{port}{path}"
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(_ANY.get(host, host), port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.read(_HEADER_BYTES)
            finally:
                writer.close()
    except InvalidSetting as error:
        return str(error)
    except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        return f"the agent does not answer at {url}: {type(error).__name__}"
    return "" if head.split(b" ", 2)[1:2] == [b"200"] else body.decode(errors="replace").strip()


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InvalidSetting(f"metrics_address: {address!r} is not host:port", hint="for example 127.0.0.1:9464")
    return host.strip("[]"), int(port)


def _response(status: HTTPStatus, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
