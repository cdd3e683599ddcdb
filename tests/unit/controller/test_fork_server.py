"""Processes of a fork server: real ones, and what becomes of them when something ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from imagecache.controller import child
from imagecache.controller.fork_server import ForkServer
from imagecache.errors import InternalError

from .conftest import eventually

SERVER = """
import os, sys, time
from imagecache.apps import fork_server

def answers():
    print(sys.stdin.readline().upper(), end="", flush=True)
    print(os.getpid(), os.getppid(), *sorted(os.listdir("/proc/self/fd")), flush=True)
    os.read(0, 1)

def stays():
    print("here", flush=True)
    time.sleep(1000)

def sends():
    print("x" * 900_000, flush=True)

fork_server.main({
    "answers": answers, "stays": stays, "sends": sends, "breaks": lambda: 1 / 0, "dies": lambda: os.kill(os.getpid(), 9)
})
"""


def alive(pid: int) -> bool:
    """One whose parent has ended may stay as a zombie, until whoever is process 1 here looks."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ForkServer]:
    server = ForkServer(command=(sys.executable, "-c", SERVER))
    yield server
    await server.close()


async def parts(server: ForkServer, order: bytes = b"order\n") -> tuple[bytes, int, int, list[bytes]]:
    """The first line that a process answers, its pid, that of its server, and its open files."""
    async with child.ordered(server.starter("answers"), order, "test") as lines:
        first = await anext(lines)
        pid, parent, *files = (await anext(lines)).split()
    return first, int(pid), int(parent), files


async def test_each_order_has_a_process_of_its_own_out_of_one_server(server: ForkServer) -> None:
    found = [await parts(server, order) for order in (b"one\n", b"two\n")]

    assert [each[0] for each in found] == [b"ONE\n", b"TWO\n"]
    assert found[0][1] != found[1][1]
    assert found[0][2] == found[1][2]
    assert not alive(found[0][1])
    # stdin, stdout, stderr, and that of the listing itself: nothing of the controller, the server or another process
    assert {tuple(each[3]) for each in found} == {(b"0", b"1", b"2", b"3")}


async def test_several_at_once(server: ForkServer) -> None:
    found = await asyncio.gather(*(parts(server, b"%d\n" % number) for number in range(20)))

    assert [each[0] for each in found] == [b"%d\n" % number for number in range(20)]
    assert len({each[1] for each in found}) == 20
    assert {tuple(each[3]) for each in found} == {(b"0", b"1", b"2", b"3")}


async def test_a_long_line_arrives_whole(server: ForkServer) -> None:
    async with child.ordered(server.starter("sends"), b"", "test") as lines:
        assert len(await anext(lines)) == 900_001


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("breaks", "the test process ended with status 1"),
        ("dies", "the test process was ended by signal SIGKILL"),
        ("unknown", "the test process ended with status 1"),
    ],
)
async def test_one_that_breaks_is_our_error(server: ForkServer, program: str, message: str) -> None:
    with pytest.raises(InternalError, match=message):
        async with child.ordered(server.starter(program), b"order\n" * 100_000, "test") as lines:
            await anext(lines)
    assert (await parts(server))[0] == b"ORDER\n"


async def test_one_that_does_not_stop_is_killed(server: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_STOP_SECONDS", 0.1)
    async with child.ordered(server.starter("stays"), b"", "test") as lines:
        assert await anext(lines) == b"here\n"


async def test_cancelled_while_it_starts(server: ForkServer) -> None:
    task = asyncio.create_task(parts(server))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (await parts(server))[0] == b"ORDER\n"


async def test_a_server_that_is_killed_is_replaced(server: ForkServer) -> None:
    async with child.ordered(server.starter("answers"), b"order\n", "test") as lines:
        await anext(lines)
        pid, parent = map(int, (await anext(lines)).split()[:2])
        os.kill(parent, signal.SIGKILL)
        again = (await parts(server))[2]
        assert alive(pid)

    assert again != parent

    await eventually(lambda: not alive(pid), lambda: pid)


async def test_a_server_that_starts_nothing_ends_and_another_one_is_started() -> None:
    server = ForkServer(command=(sys.executable, "-c", SERVER), idle=0.2)
    first = (await parts(server))[2]

    await eventually(lambda: not alive(first), lambda: first)
    assert (await parts(server))[2] != first
    async with child.ordered(server.starter("answers"), b"order\n", "test") as lines:
        await asyncio.sleep(0.5)  # busy: it stays
        assert await anext(lines) == b"ORDER\n"
    await server.close()


async def test_a_server_that_cannot_be_started_is_our_error() -> None:
    server = ForkServer(command=(sys.executable, "-c", "import sys; sys.exit(3)"))

    with pytest.raises(InternalError, match="the process that starts others has ended"):
        await parts(server)
    await server.close()
