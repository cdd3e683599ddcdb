"""A process that proves layers and was taken over by one: it may lie, but holds nobody up."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import cast

import pytest

from imagecache.builder.worker_messages import (
    FromWorker,
    Progress,
    Proven,
    Unpacked,
    encode,
)
from imagecache.builder.worker_pool import Worker, WorkerPool
from imagecache.errors import StoreCorrupt, WorkerKilled
from imagecache.fetch import verifier
from imagecache.fetch.buffers import Slots, UnpackingMemory
from imagecache.fetch.verifier import NoProof, Verifier


class Liar(Worker):
    """Our ends are real; the other one says what the test wants."""

    def __init__(self) -> None:
        self._socket, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._grant = self._refusal = None

    def say(self, *messages: FromWorker) -> None:
        for message in messages:
            self.other.send(encode(message))

    def kill(self) -> None:
        self._socket.close()
        self.other.close()


class Pool:
    def __init__(self, worker: Liar) -> None:
        self._worker = worker

    @contextlib.asynccontextmanager
    async def worker(self, _image: str) -> AsyncIterator[Worker]:
        yield self._worker


@pytest.fixture
def liar() -> Iterator[Liar]:
    liar = Liar()
    yield liar
    liar.kill()


@contextlib.asynccontextmanager
async def unpacking(liar: Liar) -> AsyncIterator[NoProof]:
    slots = Slots(1, mmap.PAGESIZE)
    with UnpackingMemory(mmap.PAGESIZE) as memory:
        async with Verifier(cast("WorkerPool", Pool(liar))).later("app:1", slots, memory) as proof:
            yield proof
    slots.close()


async def test_one_that_is_honest(liar: Liar) -> None:
    async with unpacking(liar) as proof:
        arriving = asyncio.create_task(proof.arrived_packed(0, 10, 100))
        await asyncio.sleep(0.01)
        liar.say(Unpacked(), Progress(10))

        assert await arriving >= 0
        await proof.consumed()
        liar.say(Proven())
        await proof.finish()


def rest(liar: Liar, last: bytes = b"") -> None:
    """What is right until the last piece, and then this."""
    liar.say(Unpacked(), Progress(10))
    if last:
        liar.other.send(last)


LIES: dict[str, tuple[Callable[[Liar], None], str]] = {
    "proven before its time": (lambda liar: liar.say(Proven()), "ended before its last piece"),
    "unpacked what is not there": (lambda liar: liar.say(Unpacked(), Unpacked()), "unpacked what is not there"),
    "read what is not there": (lambda liar: liar.say(Progress(11)), "read more than there is"),
    "nothing": (lambda _liar: None, "said nothing"),
    "nothing at the end": (rest, "said nothing"),
    "no message": (lambda liar: rest(liar, b"\xff"), "makes no sense"),
}


@pytest.mark.parametrize(("lie", "words"), LIES.values(), ids=LIES)
async def test_lies(liar: Liar, lie: Callable[[Liar], None], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "_ANSWER", 0.2)

    async def arrive() -> None:
        async with unpacking(liar) as proof:
            arriving = asyncio.create_task(proof.arrived_packed(0, 10, 100))
            await asyncio.sleep(0.01)
            lie(liar)
            await arriving
            await proof.consumed()
            await proof.finish()

    with pytest.raises((StoreCorrupt, WorkerKilled), match=words):
        await asyncio.wait_for(arrive(), 10)


async def test_one_that_never_stops_talking_leaves_time_for_others(liar: Liar) -> None:
    stop = False

    def talk() -> None:
        with contextlib.suppress(OSError):
            while not stop:
                liar.say(Progress(0))

    async with unpacking(liar) as proof:
        arriving = asyncio.create_task(proof.arrived_packed(0, 10, 100))
        await asyncio.sleep(0.01)
        talking = asyncio.create_task(asyncio.to_thread(talk))
        turns = 0
        until = asyncio.get_running_loop().time() + 0.2
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0)
            turns += 1
        arriving.cancel()
        stop = True
    liar.kill()
    await asyncio.gather(arriving, talking, return_exceptions=True)

    assert turns > 10
