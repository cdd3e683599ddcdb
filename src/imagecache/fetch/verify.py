"""What proves a layer image that comes from elsewhere, while it comes.

``WorkerVerifier`` parses foreign bytes, so it does that in the builder's unprivileged worker processes, where it also
does not hold up the snapshotter. ``TrustingVerifier`` is for a store whose writers are trusted like the node itself:
the digests of tar and file are checked all the same.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from imagecache.builder.worker_messages import Arrived, Prove, Proven
from imagecache.builder.worker_pool import Worker, WorkerPool
from imagecache.digest import DiffID
from imagecache.fetch.buffers import Slots
from imagecache.store.model import LayerRecord, Space


class WorkerVerifier:
    """``fetch.verifier.Verifier``. The pool is the caller's."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def proves(self, layer: LayerRecord) -> bool:
        """Attributes that a layer image keyed by chainID has from the layers below are taken from the file itself."""
        return layer.name.space is Space.LAYERS

    @asynccontextmanager
    async def proof(
        self, diff_id: DiffID, tar_size: int | None, path: Path, slots: Slots
    ) -> AsyncIterator[_WorkerProof]:
        async with self._pool.worker() as worker:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                worker.start(Prove(diff_id=diff_id, tar_size=tar_size), [fd, slots.fd])
            finally:
                os.close(fd)
            proof = _WorkerProof(worker)
            try:
                yield proof
            finally:
                await proof.end()


class _WorkerProof:
    """What the worker finds is told at the end: bytes that are not the promised ones may look like anything."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._moved = asyncio.Event()
        self._told = self._consumed = 0
        self._result: asyncio.Task[Proven] = asyncio.create_task(worker.result(Proven, self._progress))
        self._result.add_done_callback(lambda _task: self._moved.set())

    def _progress(self, consumed: int) -> None:
        self._consumed = consumed
        self._moved.set()

    async def arrived(self, offset: int, size: int) -> None:
        self._told += size
        await self._worker.send(Arrived(offset, size))

    async def consumed(self) -> None:
        while self._consumed < self._told and not self._result.done():
            self._moved.clear()
            await self._moved.wait()

    async def finish(self) -> None:
        await self._worker.send(Arrived(0, 0))
        await self._result

    async def end(self) -> None:
        self._result.cancel()
        await asyncio.gather(self._result, return_exceptions=True)


class TrustingVerifier:
    """``fetch.verifier.Verifier``."""

    def proves(self, layer: LayerRecord) -> bool:
        del layer
        return False

    @asynccontextmanager
    async def proof(self, diff_id: DiffID, tar_size: int | None, path: Path, slots: Slots) -> AsyncIterator[_NoProof]:
        del diff_id, tar_size, path, slots
        yield _NoProof()


class _NoProof:
    async def arrived(self, offset: int, size: int) -> None:
        pass

    async def consumed(self) -> None:
        pass

    async def finish(self) -> None:
        pass
