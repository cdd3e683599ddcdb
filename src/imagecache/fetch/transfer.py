"""One layer image from the remote store into the node's own: in ranges, hashed in order, never half.

A layer image of a bundle has a known end. Several of its ranges are on their way at once and arrive in any order; what
a killed agent leaves is a beginning that the next one resumes (``store.downloads``, by the file's SHA-256). A partial
layer, which a build is still writing, has no end yet: its ranges are requested one after the other, from the tar's
first byte on, and what precedes the tar comes when the build has finished it.

Either way, each range is hashed, proven and written from the memory that it arrived in. The bytes are accepted when the
tar in them has the diffID and the rest follows from the tar, and from the layers below where it depends on these: such
a file is proven when it is whole and they are here, without holding up other transfers. It must not know which bundle a
layer is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from imagecache.builder.image_digest import continued
from imagecache.builder.position import ANYWHERE, Position, position_of
from imagecache.concurrency import cancel_all
from imagecache.digest import DiffID, Digest
from imagecache.erofs.layer_header import DATA_START, tar_length
from imagecache.errors import (
    BlobNotFound,
    ContentError,
    DigestMismatch,
    NoSpace,
    NotFound,
    StoreCorrupt,
    StoreUnreachable,
    WorkerKilled,
)
from imagecache.fetch.allowance import Allowance
from imagecache.fetch.buffers import SlotPool, Slots, UnpackingMemory
from imagecache.fetch.direct_io import DirectWriter
from imagecache.fetch.ranges import Piece, Range, Ranges
from imagecache.fetch.remote_store import RemoteStore
from imagecache.fetch.threads import in_threads
from imagecache.fetch.verifier import Claim, NoProof, Proof, Verifier
from imagecache.fetch.wire_form import WireForm
from imagecache.oserrors import converting
from imagecache.served.protocol import BLOCK
from imagecache.store.bundle_document import LayerRecord, PlacedLayer
from imagecache.store.downloads import Download
from imagecache.store.durable_files import write_all
from imagecache.store.layer_name import LayerName
from imagecache.store.layers import StagedLayer
from imagecache.store.quarantine import set_aside
from imagecache.store.store import Store
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_LOCK_POLL = 0.05
"""Seconds between two tries to take the lock that another process holds, mostly for longer than that."""
_HINT = "it is fetched again; if that fails too, run on the host of the store: imagecache check --deep"
Advanced = Callable[[int], None]
"""Gets the bytes of the layer image that are on this node; fewer than before when wrong ones were removed."""


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """Memory: ``layers * (ranges + 2) * range_size`` bytes at most. Times in seconds."""

    range_size: int = BLOCK
    """A request, and a piece that is hashed, proven and written: smaller ones cost more of each. Only ranges of this
    size are asked for in compressed form."""
    ranges: int = 3
    """Of one layer, in memory at once: two arrive while one is hashed, proven and written."""
    layers: int = 3
    """At once; the rest wait."""
    attempts: int = 2
    """Of one layer whose bytes are wrong: a second one helps against the wire, more do not help against the store."""
    threads: int = 6
    """For hashing and writing, which release the interpreter's lock: two or three works for each layer."""
    pause: float = 0.2
    """Until a partial layer that has not grown is asked for again."""


class _Arriving:
    """A layer image whose bytes arrive in order: the digest of its tar, and what it must be."""

    def __init__(
        self,
        name: LayerName,
        diff_id: DiffID,
        tar_size: int | None,
        position: Position | None,
        image: str,
        whole: Digest | None = None,
    ) -> None:
        """Without a ``position`` nothing is proven yet. ``whole`` is the digest of the file."""
        self.whole = whole
        self.image = image
        self.name = name
        self.diff_id = diff_id
        self.tar_size = tar_size
        self.position = position
        self._tar = hashlib.sha256()

    @property
    def tar_end(self) -> int:
        """More than any file has, while the tar's size is not known."""
        return sys.maxsize if self.tar_size is None else DATA_START + self.tar_size

    def hash(self, piece: Piece) -> None:
        self._tar.update(piece.data[max(DATA_START - piece.start, 0) : max(self.tar_end - piece.start, 0)])

    def check_whole(self, fd: int) -> None:
        """The file's digest: the process that proves also unpacks, and might prove what it has made itself.

        Raises DigestMismatch, StoreError.
        """
        with converting(f"layer image {self.name}"):
            found = continued(self._tar, fd, self.tar_end, os.fstat(fd).st_size)
        if found != self.whole:
            raise DigestMismatch(f"layer image {self.name} arrived damaged: behind its tar", hint=_HINT)

    def check(self) -> None:
        """Raises DigestMismatch."""
        if self._tar.hexdigest() != self.diff_id.hex:
            raise DigestMismatch(
                f"layer image {self.name} arrived damaged: its tar has sha256:{self._tar.hexdigest()}, "
                f"not {self.diff_id.hex}",
                hint=_HINT,
            )


class LayerFetcher:
    """Fetches layer images. ``close`` ends its threads."""

    def __init__(
        self,
        store: Store,
        remote: RemoteStore,
        verifier: Verifier,
        settings: FetchSettings | None = None,
        *,
        form: WireForm | None = None,
        fetched: Callable[[int], None] = lambda _size: None,
    ) -> None:
        """``form``: None: layers travel as they are. ``fetched`` gets the bytes of each range as they arrived."""
        self.settings = settings or FetchSettings()
        self.limit = asyncio.Semaphore(self.settings.layers)
        """Of layers at once, and so of memory."""
        self._form = form if self.settings.range_size == BLOCK else None
        self._fetched = fetched
        self._store = store
        self._remote = remote
        self._verifier = verifier
        self._threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="fetch")
        self._memory = SlotPool(self.settings.ranges, self.settings.range_size)
        self._arrived = asyncio.Event()
        """Set, and replaced, whenever a layer image is here."""

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def fetch(self, placed: PlacedLayer, advanced: Advanced) -> None:
        """Have the layer image in the store. The caller holds a lease on its name. Resumable when cancelled.

        One that depends on the layers below waits for them: the caller fetches these, too.

        Raises StoreUnreachable, StoreRefused, BlobNotFound, DigestMismatch, StoreCorrupt, NoSpace, StoreError, and what
        a malformed layer image raises.
        """
        layer = placed.record
        async with contextlib.AsyncExitStack() as transfer, contextlib.AsyncExitStack() as stack:
            # The lock comes last: a layer that waits for the limit must not keep it from another process.
            await transfer.enter_async_context(self.limit)
            await stack.enter_async_context(locked(self._store, layer.name))
            for attempt in range(1, self.settings.attempts + 1):
                if self._present(layer):
                    break
                try:
                    # what came compressed and was wrong comes as it is the second time: the fault may be the form's
                    await self._attempt(placed, advanced, transfer, self._form if attempt == 1 else None)
                except (ContentError, StoreCorrupt, WorkerKilled) as error:
                    advanced(0)
                    _log.warning("layer image discarded", layer=str(layer.name), attempt=attempt, problem=str(error))
                    if attempt == self.settings.attempts:
                        _name(error, layer.name)
                        raise
                    await transfer.aclose()
                    await transfer.enter_async_context(self.limit)  # it may have been given back already
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()
        advanced(layer.size)

    def _present(self, layer: LayerRecord) -> bool:
        """Whether the store has it. A file of the wrong size is set aside: containers that use it keep running."""
        layers = self._store.layers
        if not layers.has(layer.name):
            return False
        if layers.size(layer.name) == layer.size:
            return True
        moved = set_aside(self._store.paths, layers.path(layer.name))
        _log.warning("layer image set aside: wrong size", layer=str(layer.name), moved=str(moved))
        return False

    async def _attempt(
        self, placed: PlacedLayer, advanced: Advanced, transfer: contextlib.AsyncExitStack, form: WireForm | None
    ) -> None:
        """``transfer`` is closed when the bytes are here."""
        layer, position = placed.record, position_of(placed)
        arriving = _Arriving(
            layer.name,
            layer.diff_id,
            layer.tar_size,
            None if position.needs_lowers else position,
            placed.image,
            layer.digest,
        )
        with await asyncio.to_thread(self._store.downloads.open, layer.digest, layer.size) as download:
            ranges = Ranges(self.settings.range_size, 0, layer.size, download.offset)
            try:
                with self._memory.borrow() as slots:
                    async with contextlib.aclosing(self._pieces(layer.name, ranges, slots, download, form)) as pieces:
                        await self._receive(arriving, download, pieces, slots, advanced)
                if position.needs_lowers:
                    await transfer.aclose()  # the layers below may be those that wait for it
                    await self._have(placed.below)
                    lowers = [self._store.layers.path(name) for name in placed.below]
                    await self._verifier.prove_above(placed, download.path, lowers)
                await in_threads(self._threads, partial(arriving.check_whole, download.fd))
            except (ContentError, StoreCorrupt, NoSpace):  # after all else, what has arrived is resumed
                download.discard()
                raise
            with self._store.layers.adopt(download) as staged:
                await in_threads(self._threads, lambda: staged.commit(layer.name))

    async def _have(self, names: Sequence[LayerName]) -> None:
        """Wait until the store has these. Their fetches run, by this object or another one that ends in this one's."""
        for name in reversed(names):  # the bottom first, which waits for nothing itself
            while True:
                arrived = self._arrived
                if self._store.layers.has(name):
                    break
                await arrived.wait()

    async def prefetch(self, name: LayerName, allowance: Allowance, advanced: Advanced) -> bool:
        """Have a partial layer in the store when its build has finished it; False when no build is writing it.

        The caller holds a lease on its name, and ``limit``. Raises NoSpace when the layer has more bytes than
        ``allowance``, BlobNotFound when its build stops writing it or it becomes one of another name, and as ``fetch``.
        Nothing is kept when it fails or is cancelled.
        """
        ranges = Ranges(self.settings.range_size, DATA_START, None)
        with self._memory.borrow() as slots:
            async with contextlib.aclosing(self._pieces(name, ranges, slots)) as pieces:
                try:
                    first = await anext(pieces, None)
                except BlobNotFound:
                    return False
                if first is None:
                    raise StoreCorrupt(f"layer image {name} is finished in the remote store, but has no tar")
                # Not before the first bytes are here: a fetch of the finished layer must not wait for a build.
                async with locked(self._store, name):
                    if self._store.layers.has(name):
                        return True
                    with self._store.layers.stage() as staged:
                        arriving = _Arriving(name, DiffID(name.digest), None, ANYWHERE, str(name))
                        allowed = _allowed(first, pieces, allowance)
                        await self._receive(arriving, staged, allowed, slots, advanced)
                        await in_threads(self._threads, lambda: staged.commit(name))
        return True

    async def _receive(
        self,
        arriving: _Arriving,
        file: Download | StagedLayer,
        pieces: AsyncIterator[Piece],
        slots: Slots,
        advanced: Advanced,
    ) -> None:
        """Hash, prove and write all pieces. A piece's memory is reused when the next one is asked for."""
        with converting(file.path):
            writer = DirectWriter(file.path, file.fd, arriving.tar_end)
        with contextlib.ExitStack() as stack:
            stack.enter_context(writer)
            unpacking = None if self._form is None else stack.enter_context(UnpackingMemory(slots.size))
            async with self._proof(arriving, file.path, slots, unpacking) as proof:
                async for came in pieces:
                    if arriving.tar_size is None and came.size is not None:
                        arriving.tar_size = await self._write_head(arriving.name, file)
                        writer.end = arriving.tar_end
                    piece = await self._announce(proof, came, unpacking)
                    works = partial(arriving.hash, piece), partial(_write, piece, writer, file.path)
                    await in_threads(self._threads, *works)
                    advanced(piece.end)
                    await proof.consumed()  # the worker reads from the memory that the next range will overwrite
                # Before the proof's result: wrong bytes explain whatever the proof found in them.
                arriving.check()
                await proof.finish()

    def _proof(
        self, arriving: _Arriving, path: Path, slots: Slots, unpacking: UnpackingMemory | None
    ) -> AbstractAsyncContextManager[Proof | NoProof]:
        if arriving.position is None:
            return self._verifier.later(arriving.image, slots, unpacking)
        claim = Claim(arriving.diff_id, arriving.tar_size, arriving.position, arriving.image)
        return self._verifier.proof(claim, path, slots, unpacking)

    async def _announce(self, proof: Proof | NoProof, piece: Piece, unpacking: UnpackingMemory | None) -> Piece:
        """The piece itself, once the proof knows of it: what unpacks a compressed one is the proof's process."""
        if unpacking is None or not piece.unpacked:
            await proof.arrived(piece.memory_offset, len(piece.data))
            return piece
        seconds = await proof.arrived_packed(piece.memory_offset, len(piece.data), piece.unpacked)
        if self._form is not None and seconds:
            self._form.unpacked(piece.unpacked, seconds)
        await in_threads(self._threads, partial(unpacking.copy, piece.unpacked))
        return replace(piece, data=unpacking.copied(piece.unpacked), unpacked=0)

    async def _write_head(self, name: LayerName, file: Download | StagedLayer) -> int:
        """Fetch what precedes the tar of a finished layer image; returns the tar's size."""
        memory = bytearray(DATA_START)
        # With ``layer``: unlike ``partial``, it fails while the head is not final.
        await self._remote.layer(name, 0, memoryview(memory))
        head = bytes(memory)
        tar_size = tar_length(head)
        if tar_size is None:
            raise StoreCorrupt(f"layer image {name} is finished in the remote store, but has no header")
        with converting(file.path):
            write_all(file.fd, head, 0)
        return tar_size

    async def _pieces(
        self,
        name: LayerName,
        ranges: Ranges,
        slots: Slots,
        download: Download | None = None,
        form: WireForm | None = None,
    ) -> AsyncGenerator[Piece, None]:
        """All of the layer image in order, while later pieces are already on their way.

        A piece is valid until the next one is asked for: its memory is reused.
        """
        coming: deque[asyncio.Task[Piece]] = deque()

        def request() -> None:
            while len(coming) < slots.count and (wanted := ranges.next()) is not None:
                if wanted.here and download is not None:
                    piece = self._from_download(download, wanted, slots)
                elif form is not None and wanted.block is not None:
                    piece = self._block(name, wanted, wanted.block, slots, form)
                else:
                    piece = self._from_remote(name, wanted, slots, open_ended=ranges.open_ended)
                coming.append(asyncio.create_task(piece))

        try:
            while True:
                request()
                if not coming:
                    return
                piece = await coming[0]
                ranges.arrived(piece)
                request()  # a partial layer's next range is known only now, and arrives while this one is worked on
                if len(piece.data):  # else a partial layer ended exactly where the range before ended
                    yield piece
                coming.popleft()
        finally:
            slots.abandoned = bool(coming)  # the thread of a cancelled request may be in the middle of a read into it
            await cancel_all(coming)

    async def _from_download(self, download: Download, wanted: Range, slots: Slots) -> Piece:
        data = slots.piece(wanted.slot, wanted.end - wanted.start)
        await in_threads(self._threads, lambda: _read(download, wanted.start, data))
        return Piece(wanted.start, data, slots.offset(wanted.slot), here=True)

    async def _block(self, name: LayerName, wanted: Range, number: int, slots: Slots, form: WireForm) -> Piece:
        if not form.packed():
            began = time.monotonic()
            piece = await self._from_remote(name, wanted, slots, open_ended=False)
            form.took(len(piece.data), time.monotonic() - began, packed=False)
            return piece
        data, began = slots.piece(wanted.slot, wanted.end - wanted.start), time.monotonic()
        try:
            read = await self._remote.block(name, number, data)
        except (StoreUnreachable, NotFound):
            # By range it goes on where a connection broke; and a store of another version may have no blocks.
            piece = await self._from_remote(name, wanted, slots, open_ended=False)
            form.took(len(data), time.monotonic() - began, packed=True)
            return piece
        if not read.count:
            raise StoreCorrupt(f"block {number} of layer image {name} came empty")
        form.took(len(data), time.monotonic() - began, packed=True)
        self._fetched(read.count)
        unpacked = len(data) if read.packed else 0
        return Piece(wanted.start, data[: read.count], slots.offset(wanted.slot), here=False, unpacked=unpacked)

    async def _from_remote(self, name: LayerName, wanted: Range, slots: Slots, *, open_ended: bool) -> Piece:
        data, size = slots.piece(wanted.slot, wanted.end - wanted.start), None
        if open_ended:
            while True:
                part = await self._remote.partial(name, wanted.start, data)
                if part.count or (part.size is not None and part.size <= wanted.start):
                    break
                await asyncio.sleep(self.settings.pause)
            data, size = data[: part.count], part.size
        else:
            await self._remote.layer(name, wanted.start, data)
        self._fetched(len(data))
        return Piece(wanted.start, data, slots.offset(wanted.slot), here=False, size=size)


def _name(error: ContentError | StoreCorrupt | WorkerKilled, name: LayerName) -> None:
    """What a proof finds, it finds in a file without a name."""
    if str(name) not in error.message:
        error.message = f"layer image {name}: {error.message}"
    error.hint = error.hint or _HINT


async def _allowed(
    first: Piece, rest: AsyncGenerator[Piece, None], allowance: Allowance
) -> AsyncGenerator[Piece, None]:
    """All pieces, as long as the disk may take them. Raises NoSpace."""
    piece: Piece | None = first
    while piece is not None:
        allowance.take(len(piece.data))
        yield piece
        piece = await anext(rest, None)


def _write(piece: Piece, writer: DirectWriter, path: Path) -> None:
    if not piece.here:
        with converting(path):
            writer.write(piece.start, piece.data)


def _read(download: Download, offset: int, target: memoryview) -> None:
    with converting(download.path):
        while target:
            count = os.preadv(download.fd, [target], offset)
            if not count:
                raise StoreCorrupt(f"{download.path} became shorter", hint="it is fetched again")
            target, offset = target[count:], offset + count


@contextlib.asynccontextmanager
async def locked(store: Store, name: LayerName) -> AsyncIterator[None]:
    """One process at a time fetches or builds a layer; the others wait, and then find it in the store."""
    lock = store.layers.lock(name)
    try:
        while not lock.try_acquire():  # noqa: ASYNC110 - a lock between processes has no event
            await asyncio.sleep(_LOCK_POLL)
        yield
    finally:
        lock.release()
