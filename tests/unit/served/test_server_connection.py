"""Connections, byte by byte: what is kept, what is refused, and that nobody holds up somebody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from imagecache.digest import DiffID, Digest
from imagecache.served.server_settings import ServerSettings
from imagecache.store.store import Store
from testkit.served import Served
from testkit.store import put_bundle

BUNDLE = "imc-" + "0" * 20
SMALL = random.Random(5).randbytes(3_000_000)
LARGE = bytes(32 << 20)
"""More than the kernel takes for a reader that reads nothing."""
_RECEIVE = 64 << 10
Serve = Callable[[ServerSettings], Awaitable[Served]]


@dataclass
class Line:
    """One connection, and what comes over it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    async def ask(self, path: str, *fields: str, method: str = "GET", who: str = "agent") -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: store", f"Authorization: Bearer {who}-token", *fields, "", ""]
        await self.say("\r\n".join(lines).encode())

    async def head(self) -> tuple[int, dict[str, str]]:
        first, *rest = (await self.reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        fields = dict(line.split(": ", 1) for line in rest)
        return int(first.split()[1]), {name.lower(): value for name, value in fields.items()}

    async def answer(self) -> tuple[int, bytes]:
        status, fields = await self.head()
        return status, await self.reader.readexactly(int(fields["content-length"]))

    async def refusal(self) -> tuple[int, str]:
        """And the connection ends."""
        status, body = await self.answer()
        assert await self.rest() == 0
        return status, json.loads(body)["reason"]

    async def rest(self) -> int:
        """Bytes until the end; a reset is one, too."""
        count = 0
        try:
            while piece := await self.reader.read(1 << 20):
                count += len(piece)
        except ConnectionError:
            pass
        return count


class Lines:
    """Opens connections that are closed when the test ends."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def open(self, served: Served) -> Line:
        trust = ssl.create_default_context(cafile=served.certificate)
        sock = self._connect(served)
        return self._kept(await asyncio.open_connection(sock=sock, ssl=trust, server_hostname="localhost"))

    async def bare(self, served: Served) -> Line:
        """Without TLS."""
        return self._kept(await asyncio.open_connection(sock=self._connect(served)))

    def _connect(self, served: Served) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE)
        sock.connect(("127.0.0.1", served.port))
        return sock

    def _kept(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> Line:
        self._stack.push_async_callback(_close, streams[1])
        return Line(*streams)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.fixture
async def lines() -> AsyncIterator[Lines]:
    async with AsyncExitStack() as stack:
        yield Lines(stack)


def layer_path(content: bytes) -> str:
    return f"/v1/layers/layers/{Digest.sha256(content)}"


@pytest.fixture
def small(store: Store) -> str:
    put_bundle(store, BUNDLE, [DiffID(Digest.sha256(SMALL))], [SMALL])
    return layer_path(SMALL)


@pytest.fixture
def large(store: Store) -> str:
    put_bundle(store, BUNDLE, [DiffID(Digest.sha256(LARGE))], [LARGE])
    return layer_path(LARGE)


def connection_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.removeprefix("served-").isdecimal()]


async def served_still(served: Served, lines: Lines) -> None:
    line = await lines.open(served)
    await line.ask("/livez")
    assert await line.answer() == (200, b"ok\n")


async def test_a_connection_is_kept_after_all_kinds_of_answers(served: Served, lines: Lines, small: str) -> None:
    line = await lines.open(served)

    await line.ask(small, who="stranger")
    assert (await line.answer())[0] == 401
    await line.ask(small)
    assert await line.answer() == (200, SMALL)
    await line.ask("/v1/nothing")
    assert (await line.answer())[0] == 404
    await line.ask(small, method="HEAD")
    assert (await line.head())[1]["content-length"] == str(len(SMALL))
    await line.ask(small, "Range: bytes=9-0")
    assert (await line.answer())[0] == 416
    await line.ask(small, "Content-Length: 0", "Range: bytes=7-9")
    assert await line.answer() == (206, SMALL[7:10])
    await line.ask("/livez", "Connection: close")
    assert await line.answer() == (200, b"ok\n")
    assert await line.rest() == 0


async def test_requests_sent_ahead_are_answered_in_turn(served: Served, lines: Lines, small: str) -> None:
    line = await lines.open(served)

    for number in range(20):
        await line.ask(small, f"Range: bytes={number}-{number}")

    assert [await line.answer() for _ in range(20)] == [(206, SMALL[number : number + 1]) for number in range(20)]


@pytest.mark.parametrize("target", ["https://store/livez", "/livez?verbose", "/%6civez"])
async def test_forms_of_one_path(served: Served, lines: Lines, target: str) -> None:
    line = await lines.open(served)

    await line.say(f"GET {target} HTTP/1.0\r\n\r\n".encode())

    assert await line.answer() == (200, b"ok\n")
    assert await line.rest() == 0


@pytest.mark.parametrize("target", ["*", "https://[", "/", "//livez", "/livez/", "/v1/layers/layers%2fx/y"])
async def test_paths_that_are_none(served: Served, lines: Lines, target: str) -> None:
    line = await lines.open(served)

    await line.ask(target)

    assert (await line.answer())[0] in {400, 404}


MALFORMED = {
    "garbage": (b"\x00\x01garbage\r\n\r\n", 400),
    "no-http": (b"HELO store\r\n\r\n", 400),
    "no-host": (b"GET /livez HTTP/1.1\r\n\r\n", 400),
    "after-a-request": (b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGARBAGE\r\n\r\n", 400),
    "long": (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (17 << 10), 431),
    "endless": (b"x" * (1 << 20), 431),
    "body": (b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n" + b"x" * 400_000, 413),
    "chunks": (b"GET /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 413),
    "posted": (b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 413),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_refused(served: Served, lines: Lines, name: str) -> None:
    text, status = MALFORMED[name]
    line = await lines.open(served)

    await line.say(text)

    if name == "after-a-request":
        assert await line.answer() == (200, b"ok\n")
    assert await line.refusal() == (status, "InvalidInput")
    await served_still(served, lines)


async def test_a_head_that_does_not_end(serve: Serve, lines: Lines) -> None:
    served = await serve(ServerSettings(head_timeout=0.2))
    line = await lines.open(served)

    await line.say(b"GET /livez HTTP/1.1\r\n")

    await served_still(served, lines)
    assert await line.refusal() == (408, "InvalidInput")


async def test_the_silent_are_closed(serve: Serve, lines: Lines) -> None:
    served = await serve(ServerSettings(idle_timeout=0.2))

    line = await lines.open(served)

    assert await line.rest() == 0


async def test_who_does_not_shake_hands_holds_up_nobody(served: Served, lines: Lines) -> None:
    bare = [await lines.bare(served) for _ in range(20)]
    await bare[0].say(b"\x16\x03\x01")

    await served_still(served, lines)

    assert len(connection_threads()) == 21


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"])
async def test_who_does_not_encrypt_is_closed(serve: Serve, lines: Lines, said: bytes) -> None:
    served = await serve(ServerSettings(handshake_timeout=0.2))
    with capture_logs() as logs:
        line = await lines.bare(served)
        await line.say(said)

        await line.rest()

    assert {each["log_level"] for each in logs} <= {"debug"}


async def test_who_is_gone_before_it_is_accepted_is_nobodys_error(serve: Serve, lines: Lines, large: str) -> None:
    served = await serve(ServerSettings(connections=1))
    line = await lines.open(served)
    await line.ask(large)
    assert (await line.head())[0] == 200
    await lines.bare(served)  # waits for room, and the others behind it

    with capture_logs() as logs:
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"):
            with socket.create_connection(("127.0.0.1", served.port)) as sock:
                sock.sendall(said)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
        assert await line.reader.readexactly(len(LARGE)) == LARGE
        await served_still(served, lines)

    assert {each["log_level"] for each in logs} <= {"debug"}


async def test_many_ranges_at_once(serve: Serve, lines: Lines, small: str) -> None:
    served = await serve(ServerSettings(streams=3, buffer_size=50_000))

    async def read(start: int) -> None:
        line = await lines.open(served)
        for at in range(start, start + 1_000_000, 333_333):
            await line.ask(small, f"Range: bytes={at}-{at + 200_000}")
            assert await line.answer() == (206, SMALL[at : at + 200_001])

    await asyncio.gather(*(read(number * 77_777) for number in range(20)))


async def test_a_reader_that_stops_is_dropped(serve: Serve, lines: Lines, large: str) -> None:
    served = await serve(ServerSettings(send_timeout=0.2))
    line = await lines.open(served)
    (thread,) = connection_threads()
    await line.ask(large)
    assert (await line.head())[0] == 200

    await asyncio.to_thread(thread.join, 20)

    assert not thread.is_alive()
    assert await line.rest() < len(LARGE)
    await served_still(served, lines)


async def test_a_file_cut_short_cuts_the_answer_short(served: Served, store: Store, lines: Lines, large: str) -> None:
    line = await lines.open(served)
    await line.ask(large)
    assert (await line.head())[0] == 200
    path = store.paths.root / "layers" / large.rsplit("/", 1)[1].replace(":", "/")
    (file,) = path.parent.rglob("*.erofs")

    with capture_logs() as logs:
        file.chmod(0o600)
        with file.open("r+b") as opened:
            opened.truncate(1 << 20)
        came = await line.rest()

    assert 1 << 20 <= came < len(LARGE)
    assert [each["event"] for each in logs] == ["response cut short"]


async def test_stop_waits_for_no_reader(serve: Serve, lines: Lines, large: str) -> None:
    """One reads nothing, one waits for its turn, one is being judged, one is idle, two never shake hands."""
    served = await serve(ServerSettings(streams=1))
    hanging = await lines.open(served)
    await hanging.ask(large)
    await hanging.head()
    waiting, judged, idle = [await lines.open(served) for _ in range(3)]
    await waiting.ask(large)
    served.reviewer.silent = asyncio.Event()
    served.reviewer.asks.clear()
    await judged.ask(large, who="another")
    bare = [await lines.bare(served) for _ in range(2)]
    await served.reviewer.asks.wait()

    async with asyncio.timeout(2):
        await served.stop()

    assert connection_threads() == []
    assert await hanging.rest() < len(LARGE)
    assert [await line.rest() for line in (idle, *bare)] == [0, 0, 0]
    served.reviewer.silent.set()


async def test_the_connection_that_is_idle_longest_makes_room(serve: Serve, lines: Lines) -> None:
    served = await serve(ServerSettings(connections=2))
    first, second = await lines.open(served), await lines.open(served)
    await first.ask("/livez")  # and is behind the second, whether or not its thread has come so far
    assert (await first.answer())[0] == 200

    await served_still(served, lines)

    assert await second.rest() == 0
    await first.ask("/livez")
    assert (await first.answer())[0] == 200


async def test_without_an_idle_one_others_wait(serve: Serve, lines: Lines, large: str) -> None:
    served = await serve(ServerSettings(connections=1))
    line = await lines.open(served)
    await line.ask(large)
    assert (await line.head())[0] == 200

    later = asyncio.create_task(served_still(served, lines))
    assert await line.reader.readexactly(len(LARGE)) == LARGE

    await later


@pytest.mark.parametrize(("queue", "patience"), [(0, 60.0), (5, 0.05)])
async def test_too_many_layers(serve: Serve, lines: Lines, large: str, queue: int, patience: float) -> None:
    served = await serve(ServerSettings(streams=1, queue_capacity=queue, queue_timeout=patience))
    line, second = await lines.open(served), await lines.open(served)
    await line.ask(large)
    assert (await line.head())[0] == 200

    with capture_logs() as logs:
        await second.ask(large)
        status, fields = await second.head()
    assert (status, fields["retry-after"]) == (503, "1")
    assert logs == []
    assert json.loads(await second.reader.readexactly(int(fields["content-length"])))["reason"] == "StoreBusy"

    assert await line.reader.readexactly(len(LARGE)) == LARGE
    await second.ask(large, "Range: bytes=0-9")
    assert (await second.answer())[0] == 206


async def test_a_judge_who_is_silent(serve: Serve, lines: Lines, small: str) -> None:
    served = await serve(ServerSettings(review_timeout=0.1))
    served.reviewer.silent = asyncio.Event()
    line = await lines.open(served)

    await line.ask(small)
    status, body = await line.answer()

    assert (status, json.loads(body)["reason"]) == (503, "KubernetesUnavailable")
    served.reviewer.silent.set()
