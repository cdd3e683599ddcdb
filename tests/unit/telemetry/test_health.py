"""Metrics and health over a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from prometheus_client.parser import text_string_to_metric_families

from imagecache.errors import HostError, InvalidSetting
from imagecache.telemetry.health import HealthServer, problem_at
from imagecache.telemetry.metrics import Metrics


class Node:
    """What the server is asked about."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.problem = ""
        self.server = HealthServer(self.metrics, ready=lambda: self.problem)
        self.port = 0

    async def ask(self, request: bytes) -> tuple[str, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return head.split(b"\r\n")[0].decode(), body

    async def get(self, path: str) -> tuple[str, bytes]:
        return await self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    _host, node.port = await node.server.start("127.0.0.1:0")
    yield node
    await node.server.stop()
    await node.server.stop()


async def test_live_and_ready(node: Node) -> None:
    assert await node.get("/livez") == ("HTTP/1.1 200 OK", b"ok\n")
    assert await node.get("/readyz?verbose") == ("HTTP/1.1 200 OK", b"ok\n")
    node.problem = "the store is gone"
    assert await node.get("/readyz") == ("HTTP/1.1 503 Service Unavailable", b"the store is gone\n")


async def test_metrics(node: Node) -> None:
    node.metrics.layer_hits.inc(3)
    node.metrics.snapshot_calls.labels("Prepare", "OK").inc()
    node.metrics.store_bytes.labels("layers").set(5)

    status, body = await node.get("/metrics")

    assert status == "HTTP/1.1 200 OK"
    found = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert found["imagecache_snapshotter_layer_hits"].samples[0].value == 3
    assert found["imagecache_build_info"].samples[0].labels == {"version": "0.1.0"}
    assert found["imagecache_store_bytes"].samples[0].labels == {"kind": "layers"}


async def test_two_processes_worth_of_metrics_do_not_meet() -> None:
    one, other = Metrics(), Metrics()
    one.layer_hits.inc()

    assert b"imagecache_snapshotter_layer_hits_total 1.0" in one.render()
    assert b"imagecache_snapshotter_layer_hits_total 0.0" in other.render()


def test_every_metric_has_our_prefix_a_unit_and_no_unbounded_label() -> None:
    text = Metrics().render().decode()
    ours = [
        family for family in text_string_to_metric_families(text) if not family.name.startswith(("process_", "python_"))
    ]

    assert len(ours) > 15
    for family in ours:
        assert family.name.startswith("imagecache_")
        assert family.documentation.endswith(".")
        labels = {label for sample in family.samples for label in sample.labels}
        assert labels <= {"version", "reason", "method", "code", "kind", "le"}


async def test_other_requests(node: Node) -> None:
    assert (await node.get("/secret"))[0] == "HTTP/1.1 404 Not Found"
    assert (await node.ask(b"POST /metrics HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 405 Method Not Allowed"
    assert await node.ask(b"GET /" + b"x" * 20_000 + b"\r\n\r\n") == ("", b"")


@pytest.mark.parametrize("address", ["", "9464", "x:", "x:y", "x:70000"])
async def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InvalidSetting, match="is not host:port"):
        await HealthServer(Metrics()).start(address)


async def test_a_port_that_is_taken(node: Node) -> None:
    with pytest.raises(HostError, match="cannot listen at"):
        await HealthServer(Metrics()).start(f"127.0.0.1:{node.port}")


async def test_a_port_that_is_taken_is_tried_again(node: Node) -> None:
    other = HealthServer(Metrics(), ready=lambda: "the other one")
    address = f"127.0.0.1:{node.port}"
    await other.start_when_free(address, pause=0.01)
    assert await problem_at(address, "/readyz", seconds=60) == ""
    await node.server.stop()
    try:
        async with asyncio.timeout(10):
            while "the other one" not in await problem_at(address, "/readyz", seconds=5):
                pass
    finally:
        await other.stop()


async def test_nobody_who_waits_for_a_port_stays(node: Node) -> None:
    other = HealthServer(Metrics())
    await other.start_when_free(f"127.0.0.1:{node.port}", pause=0.01)
    await other.stop()
    await other.start_when_free("")
    assert len(asyncio.all_tasks()) == 1


async def test_ipv6() -> None:
    server = HealthServer(Metrics())
    host, port = await server.start("[::1]:0")
    await server.stop()

    assert host == "::1"
    assert port > 0


async def test_asked_by_a_program(node: Node) -> None:
    for host in ("127.0.0.1", "0.0.0.0", ""):  # noqa: S104 - where a server listens everywhere
        assert await problem_at(f"{host}:{node.port}", "/readyz", seconds=60) == ""
    node.problem = "still starting"
    assert await problem_at(f"127.0.0.1:{node.port}", "/readyz", seconds=60) == "still starting"
    await node.server.stop()
    assert "does not answer at http://127.0.0.1:" in await problem_at(f"127.0.0.1:{node.port}", "/readyz", seconds=60)
    assert "is not host:port" in await problem_at("nowhere", "/readyz", seconds=60)


async def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts for it
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert "TimeoutError" in await problem_at(address, "/readyz", seconds=0.05)


async def test_connections_that_ask_nothing_keep_nobody_out() -> None:
    """They took every file descriptor: nothing of the process could open a file."""
    server = HealthServer(Metrics(), connections=4)
    _host, port = await server.start("127.0.0.1:0")
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
    try:
        assert await problem_at(f"127.0.0.1:{port}", "/livez", seconds=60) == ""
        for reader, _writer in silent[:8]:
            with suppress(ConnectionError):
                assert await reader.read() == b""
        reader, writer = silent[-1]
        writer.write(b"GET /livez HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
    finally:
        for _reader, writer in silent:
            writer.close()
        await server.stop()
