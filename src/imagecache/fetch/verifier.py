"""Proves a layer image from elsewhere: while it arrives, or when the layers that it depends on are here too.

It parses foreign bytes, so it does that in the builder's unprivileged worker processes, where it also does not delay
the snapshotter in this one. It must not decide what happens to a file that is wrong.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from imagecache.builder.position import Position
from imagecache.builder.worker_messages import Arrived, ArrivedPacked, Prove, ProveAbove, Proven, ToWorker, Unpack
from imagecache.builder.worker_pool import Worker, WorkerPool
from imagecache.concurrency import cancel_all
from imagecache.digest import DiffID
from imagecache.errors import InternalError, StoreCorrupt
from imagecache.fetch.buffers import Slots, UnpackingMemory
from imagecache.oserrors import converting
from imagecache.store.bundle_document import PlacedLayer

_ANSWER = 3600.0
"""Seconds for a piece, and for what follows the last one. That takes some milliseconds, or what the layer's bytes allow
of a busy processor (``limits.worker_time``): who says nothing for so long was taken over by what it reads."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What an arriving layer image has to be."""

    diff_id: DiffID
    tar_size: int | None
    """None: not known yet."""
    position: Position
    image: str
    """That it belongs to: a worker that has read it reads no layer of another one."""


class Verifier:
    def __init__(self, pool: WorkerPool) -> None:
        """``pool`` is the caller's to close. Each proof occupies a worker until all of its layer image has arrived."""
        self._pool = pool

    async def prove_above(self, placed: PlacedLayer, path: Path, lowers: Sequence[Path]) -> None:
        """Prove a whole file whose tar has the diffID, and which is right on top of ``lowers`` (top to bottom) alone.

        Raises of the ContentError family, StoreCorrupt, StoreError.
        """
        layer = placed.record
        async with self._pool.worker(placed.image) as worker:
            with ExitStack() as stack:
                fds = [stack.enter_context(_opened(each)) for each in (path, *lowers)]
                worker.start(ProveAbove(diff_id=layer.diff_id, tar_size=layer.tar_size), fds)
            with _answering():
                async with asyncio.timeout(_ANSWER):
                    await worker.result(Proven, lambda _consumed: None)

    @asynccontextmanager
    async def proof(
        self, claim: Claim, path: Path, slots: Slots, unpacking: UnpackingMemory | None = None
    ) -> AsyncIterator[Proof]:
        """Begin with a layer image that is written to ``path`` and arrives in ``slots``. Waits for a free worker.

        ``unpacking``: for pieces that arrive compressed; None: none do.

        Without a size of the tar the bytes begin with the tar; what precedes it is in the file when ``finish`` is
        called.
        """
        with _opened(path) as fd:
            fds = [fd, slots.fd] if unpacking is None else [fd, slots.fd, unpacking.fd]
            job = Prove(claim.diff_id, claim.position, claim.tar_size)
            async with self._job(claim.image, job, fds) as proof:
                yield proof

    @asynccontextmanager
    async def _job(self, image: str, job: ToWorker, fds: Sequence[int]) -> AsyncIterator[Proof]:
        async with self._pool.worker(image) as worker:
            worker.start(job, fds)
            proof = Proof(worker)
            try:
                yield proof
            finally:
                await proof.close()

    @asynccontextmanager
    async def later(self, image: str, slots: Slots, unpacking: UnpackingMemory | None = None) -> AsyncIterator[NoProof]:
        """For a layer image that ``prove_above`` proves: a worker unpacks what arrives compressed, if anything does."""
        async with AsyncExitStack() as stack:

            async def unpack() -> Proof:
                if unpacking is None:
                    raise InternalError("a piece is compressed, and there is no memory to unpack it into")
                return await stack.enter_async_context(self._job(image, Unpack(), [slots.fd, unpacking.fd]))

            yield NoProof(unpack)


class Proof:
    """Of one layer image, whose bytes arrive in order.

    What the worker finds is raised by ``finish`` only: a digest that is wrong explains more than a parser's error about
    bytes that are not the promised ones.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._moved = asyncio.Event()
        self._sent = self._consumed = 0
        self._packed = self._unpacked = 0
        """Pieces that arrived compressed."""
        self._result: asyncio.Task[Proven] = asyncio.create_task(
            worker.result(Proven, self._progress, self._one_unpacked)
        )
        self._result.add_done_callback(
            lambda _task: self._moved.set()
        )  # else ``consumed`` would wait for a dead worker

    def _progress(self, consumed: int) -> None:
        if consumed > self._sent:
            raise StoreCorrupt("the process that proves a layer image says that it has read more than there is")
        self._consumed = consumed
        self._moved.set()

    def _one_unpacked(self) -> None:
        if self._unpacked >= self._packed:
            raise StoreCorrupt("the process that unpacks a layer image says that it has unpacked what is not there")
        self._unpacked += 1
        self._moved.set()

    async def arrived(self, offset: int, size: int) -> None:
        """The next ``size`` bytes of the layer image are at ``offset`` of the memory."""
        self._sent += size
        await self._worker.send(Arrived(offset, size))

    async def arrived_packed(self, offset: int, size: int, length: int) -> float:
        """The next ``length`` bytes are there, in ``size`` compressed ones. Returns when they are unpacked.

        They stay in the memory for that until the next call. Returns the seconds that it took; 0 for the first one,
        for which a process may have had to start. Raises what the proof has found, and StoreCorrupt when it says
        nothing.
        """
        self._sent += size
        self._packed += 1
        began = time.monotonic()
        await self._worker.send(ArrivedPacked(offset, size, length))
        with _answering():
            async with asyncio.timeout(_ANSWER):
                while self._unpacked < self._packed:
                    if self._result.done():
                        await self._result
                        raise StoreCorrupt("the proof of a layer image ended before its last piece")
                    self._moved.clear()
                    await self._moved.wait()
        return time.monotonic() - began if self._packed > 1 else 0.0

    async def consumed(self) -> None:
        """Returns when the memory of all that has arrived may be reused. Raises StoreCorrupt when nothing is said."""
        with _answering():
            async with asyncio.timeout(_ANSWER):
                while self._consumed < self._sent and not self._result.done():
                    self._moved.clear()
                    await self._moved.wait()

    async def finish(self) -> None:
        """All bytes are in the file, and its tar has the diffID: prove that the rest follows from the tar.

        Raises of the ContentError family, StoreCorrupt.
        """
        await self._worker.send(Arrived(0, 0))
        with _answering():
            async with asyncio.timeout(_ANSWER):
                await asyncio.shield(self._result)

    async def close(self) -> None:
        await cancel_all([self._result])


class NoProof:
    """Of a layer image that is proven when it is whole: what is unpacked is all that its worker does meanwhile."""

    def __init__(self, unpack: Callable[[], Awaitable[Proof]]) -> None:
        """``unpack`` is called with the first compressed piece. Most layers come without, and need no worker."""
        self._unpack = unpack
        self._unpacking: Proof | None = None

    async def arrived(self, offset: int, size: int) -> None:
        pass

    async def arrived_packed(self, offset: int, size: int, length: int) -> float:
        """As that of ``Proof``. Waits for a free worker."""
        self._unpacking = self._unpacking or await self._unpack()
        return await self._unpacking.arrived_packed(offset, size, length)

    async def consumed(self) -> None:
        if self._unpacking is not None:
            await self._unpacking.consumed()

    async def finish(self) -> None:
        if self._unpacking is not None:
            await self._unpacking.finish()


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise StoreCorrupt(f"the process that reads a layer image has said nothing for {_ANSWER:.0f} s") from None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    with converting(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)
