"""The link is never faster than what it stands for, and counts exactly. No test depends on an idle machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.link import PAYLOAD, Link
from testkit.peers.processes import wait_until
from testkit.peers.programs import PeerFailed

GIGABIT = 1_000_000_000
BUCKET = 0.004
"""Seconds: what the forwarder may catch up with."""
Serve = Callable[[socket.socket], None]


@contextlib.contextmanager
def server(serve: Serve) -> Iterator[tuple[str, int]]:
    """``serve`` with each connection, which is closed afterwards; the address."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                serve(self.request)

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield "127.0.0.1", listening.server_address[1]
        finally:
            listening.shutdown()
            thread.join()


def connect(link: Link) -> socket.socket:
    host, _, port = link.address.partition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def read_all(client: socket.socket) -> bytes:
    found = bytearray()
    while piece := client.recv(1 << 20):
        found += piece
    return bytes(found)


def echo(client: socket.socket) -> None:
    while piece := client.recv(1 << 16):
        client.sendall(piece)


def content(size: int, seed: int = 0) -> bytes:
    return hashlib.shake_128(b"%d" % seed).digest(size)


def test_bytes_arrive_as_they_were_and_are_counted() -> None:
    sent, answer = content(3_000_000), content(5_000_001, 1)

    def serve(client: socket.socket) -> None:
        assert read_all(client) == sent
        client.sendall(answer)

    with server(serve) as target, Link(target, None, 0) as link:
        with connect(link) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == answer
        counts = link.counts()

    assert (counts.sent, counts.received, counts.connections) == (len(sent), len(answer), 1)


@pytest.mark.parametrize(("rate_bits", "rtt", "size"), [(GIGABIT, 0.005, 20_000_000), (100_000_000, 0, 1_000_000)])
def test_a_transfer_is_not_faster_than_the_wire(rate_bits: int, rtt: float, size: int) -> None:
    data = content(size)

    with server(lambda client: client.sendall(data)) as target, Link(target, rate_bits, rtt) as link:
        begin = time.perf_counter()
        with connect(link) as client:
            received = read_all(client)
        seconds = time.perf_counter() - begin
        counted = link.counts().received

    assert received == data
    assert counted == size
    assert seconds >= size / (rate_bits * PAYLOAD / 8) - BUCKET + rtt


def test_connections_share_one_wire() -> None:
    data = content(2_000_000)

    def fetch(link: Link) -> bytes:
        with connect(link) as client:
            return read_all(client)

    with server(lambda client: client.sendall(data)) as target, Link(target, GIGABIT, 0.001) as link:
        begin = time.perf_counter()
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(fetch, [link] * 8))
        seconds = time.perf_counter() - begin
        counts = link.counts()

    assert found == [data] * 8
    assert counts.connections == 8
    assert counts.received == 8 * len(data)
    assert seconds >= 8 * len(data) / link.rate - BUCKET


def test_the_directions_do_not_share() -> None:
    """Each has its own wire; both are limited."""
    data = content(4_000_000)

    def serve(client: socket.socket) -> None:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(client.sendall, data)
            assert read_all(client) == data

    with server(serve) as target, Link(target, GIGABIT, 0) as link, connect(link) as client:
        begin = time.perf_counter()
        with ThreadPoolExecutor(1) as threads:
            threads.submit(client.sendall, data).add_done_callback(lambda _: client.shutdown(socket.SHUT_WR))
            assert read_all(client) == data
        seconds = time.perf_counter() - begin
        counts = link.counts()

    assert (counts.sent, counts.received) == (len(data), len(data))
    assert seconds >= len(data) / link.rate - BUCKET


@pytest.mark.parametrize("rate_bits", [None, GIGABIT])
def test_each_answer_costs_a_round_trip(rate_bits: int | None) -> None:
    rtt, messages = 0.005, 20

    with server(echo) as target, Link(target, rate_bits, rtt) as link:
        begin = time.perf_counter()
        with connect(link) as client:
            for number in range(messages):
                client.sendall(b"%08d" % number)
                assert client.recv(8, socket.MSG_WAITALL) == b"%08d" % number
        seconds = time.perf_counter() - begin

    assert seconds >= (messages + 1) * rtt, "a round trip for each, and one for the handshake"


def test_a_slow_reader_is_felt_by_the_sender() -> None:
    """Who never reads gets a part, and the rest waits at the sender; all of it arrives when it does read."""
    size, buffer = 64_000_000, 1 << 16
    sent = 0
    stuck = threading.Event()

    def serve(client: socket.socket) -> None:
        nonlocal sent
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        client.settimeout(0.5)
        while sent < size:
            try:
                sent += client.send(bytes(min(1 << 16, size - sent)))
            except TimeoutError:
                stuck.set()

    with server(serve) as target, Link(target, GIGABIT, 0.001) as link, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        host, _, port = link.address.partition(":")
        client.connect((host, int(port)))
        assert stuck.wait(30)
        assert sent < 6_000_000, "1.3 MB on the wire and in its slack, and the buffers of four sockets"
        assert len(read_all(client)) == size


def test_when_one_side_closes_the_other_is_closed() -> None:
    closed = threading.Event()

    def serve(client: socket.socket) -> None:
        client.sendall(b"hello")
        assert client.recv(1) == b""
        closed.set()

    with server(serve) as target, Link(target, GIGABIT, 0.001) as link:
        with connect(link) as client:
            assert client.recv(5, socket.MSG_WAITALL) == b"hello"
        assert closed.wait(10)
        assert wait_until(lambda: link.counts().open == 0, seconds=10)

    with server(lambda client: client.sendall(b"bye")) as target, Link(target, GIGABIT, 0.001) as link:
        with connect(link) as client:
            assert read_all(client) == b"bye"
        assert wait_until(lambda: link.counts().open == 0, seconds=10)


def test_a_reset_reaches_the_other_side() -> None:
    with server(echo) as target, Link(target, None, 0) as link:
        with connect(link) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert wait_until(lambda: link.counts().open == 0, seconds=10)


def test_a_target_that_refuses_closes_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        target: tuple[str, int] = taken.getsockname()
    with Link(target, None, 0) as link:
        with contextlib.suppress(ConnectionResetError), connect(link) as client:
            assert client.recv(1) == b""
        assert link.counts().open == 0


def test_a_killed_link_closes_its_connections_and_says_so() -> None:
    with server(echo) as target, Link(target, GIGABIT, 0.005) as link, connect(link) as client:
        os.kill(link.pid, signal.SIGKILL)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        with pytest.raises(PeerFailed, match="ended"):
            link.counts()


def test_it_ends_with_whoever_started_it() -> None:
    program = (
        "import os, signal; from bench.link import Link; link = Link(('127.0.0.1', 9), None, 0).__enter__();"
        "print(link.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, check=False, timeout=60)

    pid = int(done.stdout)
    assert done.returncode == -signal.SIGKILL
    assert wait_until(lambda: not _lives(pid), seconds=10)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
