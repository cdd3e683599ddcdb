"""Processes of a fork server: real ones, and what becomes of them when something ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
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
SECOND_FORK_FAILS = """
import errno, os
fork, turns = os.fork, [True, False, True]
def one():
    if turns.pop(0):
        return fork()
    raise OSError(errno.EAGAIN, "no")
os.fork = one
"""


def alive(pid: int) -> bool:
    """One whose parent has ended may stay as a zombie, until whoever is process 1 here looks."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


Make = Callable[..., ForkServer]


@pytest_asyncio.fixture
async def make() -> AsyncIterator[Make]:
    """Servers with these arguments, and a program before their own; closed at the end."""
    made: list[ForkServer] = []

    def one(program: str = "", **arguments: float) -> ForkServer:
        made.append(ForkServer(command=(sys.executable, "-c", program + SERVER), **arguments))
        return made[-1]

    yield one
    for server in made:
        await server.close()


@pytest.fixture
def server(make: Make) -> ForkServer:
    return make()


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


async def test_one_that_does_not_stop_is_killed(server: ForkServer) -> None:
    async with child.ordered(server.starter("stays"), b"", "test", patience=0.1) as lines:
        assert await anext(lines) == b"here\n"


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_starts(server: ForkServer, times: int) -> None:
    task = asyncio.create_task(parts(server))
    await asyncio.sleep(0)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (await parts(server))[0] == b"ORDER\n"


async def test_cancelled_while_it_is_told_its_order(server: ForkServer) -> None:
    """No descriptor stays in the event loop: a later one of the same number would be taken for it."""
    task = asyncio.create_task(parts(server, b"x" * (4 << 20)))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    for _ in range(5):
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        theirs.send(b"hi\n")
        assert await asyncio.wait_for(reader.readline(), 5) == b"hi\n"
        writer.close()
        theirs.close()


async def test_a_server_that_is_killed_is_replaced(server: ForkServer) -> None:
    async with child.ordered(server.starter("answers"), b"order\n", "test") as lines:
        await anext(lines)
        pid, parent = map(int, (await anext(lines)).split()[:2])
        os.kill(parent, signal.SIGKILL)
        again = (await parts(server))[2]
        assert alive(pid)

    assert again != parent
    assert not alive(pid), "the block has waited for it"


async def test_without_its_server_one_that_does_not_stop_is_killed(server: ForkServer) -> None:
    parent = (await parts(server))[2]
    async with child.ordered(server.starter("stays"), b"", "test", patience=0.1) as lines:
        assert await anext(lines) == b"here\n"
        os.kill(parent, signal.SIGKILL)


async def test_a_server_that_is_stopped_is_replaced(make: Make) -> None:
    server = make(answer=15)
    parent = (await parts(server))[2]
    os.kill(parent, signal.SIGSTOP)

    assert (await parts(server))[2] != parent
    assert not alive(parent)


async def test_a_machine_without_processes_is_an_error_of_one_order(make: Make) -> None:
    server = make(SECOND_FORK_FAILS)
    async with child.ordered(server.starter("answers"), b"order\n", "test") as lines:
        await anext(lines)
        parent = int((await anext(lines)).split()[1])
        with pytest.raises(InternalError, match="no process can be started"):
            await parts(server)
        assert (await parts(server))[2] == parent


async def test_nothing_is_started_once_it_is_closed(server: ForkServer) -> None:
    task = asyncio.create_task(parts(server))
    await asyncio.sleep(0)
    await server.close()
    with pytest.raises(InternalError, match="the controller ends"):
        await parts(server)
    await asyncio.gather(task, return_exceptions=True)


async def test_a_server_that_starts_nothing_ends_and_another_one_is_started(make: Make) -> None:
    server = make(idle=0.2)
    first = (await parts(server))[2]

    await eventually(lambda: not alive(first), lambda: first)
    assert (await parts(server))[2] != first
    async with child.ordered(server.starter("answers"), b"order\n", "test") as lines:
        await asyncio.sleep(0.5)  # busy: it stays
        assert await anext(lines) == b"ORDER\n"


async def test_a_server_that_cannot_be_started_is_our_error(make: Make) -> None:
    server = make("raise SystemExit(3)")

    with pytest.raises(InternalError, match="the process that starts others has ended"):
        await parts(server)
