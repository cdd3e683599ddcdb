"""A layer image that a build is still making: fetched as it grows, so that a node is ready a moment after the cache is.

The tar in it is final as it is written; what precedes and follows the tar comes when the build has finished the layer.
As in ``layers`` every piece is hashed, proven and written from the memory that it arrived in, and no word of the server
is believed: the tar must have its diffID, and the rest must follow from the tar. Nobody relies on this: what fails here
or comes too late is fetched by ``layers`` once the bundle is there. It must not know which bundle a layer is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from imagecache.backoff import Backoff
from imagecache.concurrency import cancel_all
from imagecache.digest import DiffID
from imagecache.erofs.layer_header import DATA_START, tar_length
from imagecache.errors import BlobNotFound, DigestMismatch, StoreCorrupt
from imagecache.fetch.allowance import Allowance
from imagecache.fetch.buffers import SlotPool, Slots
from imagecache.fetch.direct_io import DirectWriter
from imagecache.fetch.threads import in_threads
from imagecache.fetch.transfer import Advanced, locked
from imagecache.fetch.verifier import Proof, Verifier
from imagecache.limits import MIB
from imagecache.oserrors import converting
from imagecache.served.remote_store import Part, RemoteStore
from imagecache.store.files import write_all
from imagecache.store.layers import StagedLayer
from imagecache.store.model import LayerName
from imagecache.store.store import Store

_SLOTS = 2
"""One piece comes while the one before is worked on: a build is slower than that."""


@dataclass(frozen=True, slots=True)
class FollowSettings:
    """Memory: ``layers * 2 * range_size`` bytes at most. Times in seconds."""

    range_size: int = 8 * MIB
    layers: int = 3
    """At once, of all builds."""
    threads: int = 4
    """For hashing and writing."""
    pause: float = 0.2
    """Until more of a layer is asked for when there was nothing new."""
    backoff: Backoff = Backoff(0.2, 5.0)
    """Until a build, or a layer that has not begun, is looked for again: thousands of nodes may wait for one build."""


@dataclass(frozen=True, slots=True)
class _Piece:
    offset: int
    place: int
    """Where it begins in the memory that is shared with the verifier."""
    data: memoryview
    size: int | None
    """Of the finished layer image."""


class _Here(Exception):
    """Somebody else was faster. The memory is not used again: the next piece may still be on its way into it."""


class LayerFollower:
    """One for a node. ``close`` ends its threads."""

    def __init__(
        self,
        store: Store,
        remote: RemoteStore,
        verifier: Verifier,
        settings: FollowSettings | None = None,
        *,
        fetched: Callable[[int], None] = lambda _size: None,
    ) -> None:
        """The verifier's workers are held as long as a layer grows: give it some of its own."""
        self.settings = settings or FollowSettings()
        self._store = store
        self._remote = remote
        self._verifier = verifier
        self._fetched = fetched
        self._memory = SlotPool(_SLOTS, self.settings.range_size)
        self._threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="follow")

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def follow(self, name: LayerName, allowance: Allowance, advanced: Advanced) -> bool:
        """Have the layer image in the store; False when nobody makes it. The caller holds a lease on its name.

        ``advanced`` gets the bytes that came. Raises NoSpace when they are more than ``allowance`` has, BlobNotFound
        when its maker gave up or it becomes one of another name, DigestMismatch, StoreCorrupt, StoreUnreachable,
        StoreRefused, StoreError, and what a malformed layer image raises.
        """
        with self._memory.kept(), contextlib.suppress(_Here), self._memory.borrow() as slots:
            return await self._follow(name, slots, allowance, advanced)
        return True

    async def _follow(self, name: LayerName, slots: Slots, allowance: Allowance, advanced: Advanced) -> bool:
        async with contextlib.aclosing(self._pieces(name, slots)) as pieces:
            try:
                first = await anext(pieces, None)
            except BlobNotFound:
                return False
            if first is None:
                raise StoreCorrupt(f"the store takes {name} for finished, and it has no tar")
            async with locked(self._store, name):
                if self._store.layers.has(name):
                    raise _Here
                await self._take(name, slots, _after(first, pieces), allowance, advanced)
        return True

    async def _take(
        self,
        name: LayerName,
        slots: Slots,
        pieces: AsyncGenerator[_Piece, None],
        allowance: Allowance,
        advanced: Advanced,
    ) -> None:
        with self._store.layers.stage() as staged:
            with converting(staged.path):
                writer = DirectWriter(staged.path, staged.fd)
            with writer:
                async with self._verifier.proof(DiffID(name.digest), None, staged.path, slots) as proof:
                    sink = _Sink(self._remote, name, staged, writer, proof, self._threads)
                    async for piece in pieces:
                        allowance.take(len(piece.data))
                        self._fetched(len(piece.data))
                        await sink.take(piece)
                        advanced(piece.offset + len(piece.data))
                    await sink.finish()
            await in_threads(self._threads, lambda: staged.commit(name))

    async def _pieces(self, name: LayerName, slots: Slots) -> AsyncGenerator[_Piece, None]:
        """All of the layer image from the tar on, in order, while the next piece is on its way.

        A piece is good until the one after the next is asked for: its memory is used again.
        """
        number, offset = 0, DATA_START
        coming = self._ask(name, offset, slots, number)
        try:
            while True:
                part = await coming
                piece = _Piece(offset, slots.offset(number), slots.piece(number, part.count), part.size)
                offset += part.count
                last = part.size is not None and offset >= part.size
                if not part.count:
                    await asyncio.sleep(self.settings.pause)
                else:
                    number += 1
                if not last:
                    coming = self._ask(name, offset, slots, number)
                if part.count:
                    yield piece
                if last:
                    return
        finally:
            await cancel_all([coming])

    def _ask(self, name: LayerName, offset: int, slots: Slots, number: int) -> asyncio.Task[Part]:
        """To the next border, so that pieces are aligned again after one that was short."""
        length = slots.size - offset % slots.size
        return asyncio.create_task(self._remote.partial(name, offset, slots.piece(number, length)))


class _Sink:
    """Where the pieces of one layer image go."""

    def __init__(
        self,
        remote: RemoteStore,
        name: LayerName,
        staged: StagedLayer,
        writer: DirectWriter,
        proof: Proof,
        threads: ThreadPoolExecutor,
    ) -> None:
        self._remote = remote
        self._name = name
        self._staged = staged
        self._writer = writer
        self._proof = proof
        self._threads = threads
        self._hash = hashlib.sha256()
        self._end: int | None = None
        """Of the tar; known when the layer image is finished."""

    async def take(self, piece: _Piece) -> None:
        """Returns when the memory of the piece may be used again."""
        if piece.size is not None and self._end is None:
            self._end = self._writer.end = await self._head()
        tar = piece.data if self._end is None else piece.data[: max(0, self._end - piece.offset)]
        await self._proof.arrived(piece.place, len(piece.data))
        await in_threads(self._threads, lambda: self._hash.update(tar), lambda: self._write(piece))
        await self._proof.consumed()

    async def finish(self) -> None:
        if self._hash.hexdigest() != self._name.digest.hex:
            raise DigestMismatch(
                f"layer image {self._name} did not arrive as it was made: its tar has sha256:{self._hash.hexdigest()}",
                hint="it is fetched again when its bundle is there",
            )
        await self._proof.finish()

    async def _head(self) -> int:
        """What precedes the tar, now that it is final; returns where the tar ends."""
        memory = bytearray(DATA_START)
        await self._remote.layer(self._name, 0, memoryview(memory))
        head = bytes(memory)
        tar = tar_length(head)
        if tar is None:
            raise StoreCorrupt(f"the store takes {self._name} for finished, and it has no header")
        with converting(self._staged.path):
            write_all(self._staged.fd, head, 0)
        return DATA_START + tar

    def _write(self, piece: _Piece) -> None:
        with converting(self._staged.path):
            self._writer.write(piece.offset, piece.data)


async def _after(first: _Piece, rest: AsyncGenerator[_Piece, None]) -> AsyncGenerator[_Piece, None]:
    yield first
    async for piece in rest:
        yield piece
