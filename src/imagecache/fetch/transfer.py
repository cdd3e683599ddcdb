"""One layer image from the remote store into the node's own: in ranges, hashed in order, never half.

A layer image of a bundle has a known end. Several of its ranges are on their way at once and arrive in any order; what
a killed agent leaves is a beginning that the next one resumes (``store.downloads``, by the file's SHA-256). A partial
layer, which a build is still writing, has no end yet: its ranges are requested one after the other, from the tar's
first byte on, and what precedes the tar comes when the build has finished it.

Either way, each range is hashed, proven and written from the memory that it arrived in. The bytes are accepted when the
tar in them has the diffID and the rest follows from the tar; where that cannot be proven, when the file has its digest
too. It must not know which bundle a layer is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from imagecache.builder.image_digest import ArrivingDigest
from imagecache.concurrency import cancel_all
from imagecache.digest import DiffID, Digest
from imagecache.erofs.layer_header import DATA_START, tar_length
from imagecache.errors import BlobNotFound, ContentError, DigestMismatch, NoSpace, StoreCorrupt
from imagecache.fetch.allowance import Allowance
from imagecache.fetch.buffers import SlotPool, Slots
from imagecache.fetch.direct_io import DirectWriter
from imagecache.fetch.ranges import Piece, Range, Ranges
from imagecache.fetch.remote_store import RemoteStore
from imagecache.fetch.threads import in_threads
from imagecache.fetch.verifier import Verifier
from imagecache.limits import MIB
from imagecache.oserrors import converting
from imagecache.store.bundle_document import LayerRecord
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
Advanced = Callable[[int], None]
"""Gets the bytes of the layer image that are on this node; fewer than before when wrong ones were removed."""


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """Memory: ``layers * ranges * range_size`` bytes at most. Times in seconds."""

    range_size: int = 8 * MIB
    """A request, and a piece that is hashed, proven and written: smaller ones cost more of each."""
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


class _Digests:
    """Digests of a layer image, while its bytes arrive in order, and what they must be."""

    def __init__(self, name: LayerName, diff_id: DiffID, tar_size: int | None, image: Digest | None = None) -> None:
        """Without ``image`` the tar alone is hashed."""
        self.name = name
        self.diff_id = diff_id
        self.tar_size = tar_size
        self._image = image
        self._hash = ArrivingDigest()

    @property
    def tar_end(self) -> int:
        """More than any file has, while the tar's size is not known."""
        return sys.maxsize if self.tar_size is None else DATA_START + self.tar_size

    def update(self, piece: Piece) -> None:
        add = self._hash.tar if self._image is None else self._hash.all
        add(piece.start, piece.data, self.tar_end)

    def check(self) -> None:
        """Raises DigestMismatch."""
        found = [("its tar", self._hash.tar_hex, self.diff_id.hex)]
        if self._image is not None:
            found.append(("the whole image", self._hash.image_hex, self._image.hex))
        for what, digest, wanted in found:
            if digest != wanted:
                raise DigestMismatch(
                    f"layer image {self.name} arrived damaged: {what} has sha256:{digest}, not {wanted}",
                    hint="it is fetched again; if that fails too, run on the host of the store: "
                    "imagecache check --deep",
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
        fetched: Callable[[int], None] = lambda _size: None,
    ) -> None:
        """``fetched`` gets the bytes of each range that arrived."""
        self.settings = settings or FetchSettings()
        self.limit = asyncio.Semaphore(self.settings.layers)
        """Of layers at once, and so of memory."""
        self._fetched = fetched
        self._store = store
        self._remote = remote
        self._verifier = verifier
        self._threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="fetch")
        self._memory = SlotPool(self.settings.ranges, self.settings.range_size)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def fetch(self, layer: LayerRecord, advanced: Advanced) -> None:
        """Have the layer image in the store. The caller holds a lease on its name. Resumable when cancelled.

        Raises StoreUnreachable, StoreRefused, BlobNotFound, DigestMismatch, StoreCorrupt, NoSpace, StoreError, and what
        a malformed layer image raises.
        """
        # The lock comes last: a layer that waits for the limit must not keep it from another process.
        async with self.limit, locked(self._store, layer.name):
            for attempt in range(1, self.settings.attempts + 1):
                if self._present(layer):
                    break
                try:
                    await self._attempt(layer, advanced)
                except (ContentError, StoreCorrupt) as error:
                    advanced(0)
                    _log.warning("layer image discarded", layer=str(layer.name), attempt=attempt, problem=str(error))
                    if attempt == self.settings.attempts:
                        raise
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

    async def _attempt(self, layer: LayerRecord, advanced: Advanced) -> None:
        image = None if self._verifier.proves(layer) else layer.digest
        digests = _Digests(layer.name, layer.diff_id, layer.tar_size, image)
        with await asyncio.to_thread(self._store.downloads.open, layer.digest, layer.size) as download:
            ranges = Ranges(self.settings.range_size, 0, layer.size, download.offset)
            try:
                with self._memory.borrow() as slots:
                    async with contextlib.aclosing(self._pieces(layer.name, ranges, slots, download)) as pieces:
                        await self._receive(digests, download, pieces, slots, advanced)
            except (ContentError, StoreCorrupt, NoSpace):  # after all else, what has arrived is resumed
                download.discard()
                raise
            with self._store.layers.adopt(download) as staged:
                await in_threads(self._threads, lambda: staged.commit(layer.name))

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
                        digests = _Digests(name, DiffID(name.digest), None)
                        allowed = _allowed(first, pieces, allowance)
                        await self._receive(digests, staged, allowed, slots, advanced)
                        await in_threads(self._threads, lambda: staged.commit(name))
        return True

    async def _receive(
        self,
        digests: _Digests,
        file: Download | StagedLayer,
        pieces: AsyncIterator[Piece],
        slots: Slots,
        advanced: Advanced,
    ) -> None:
        """Hash, prove and write all pieces. A piece's memory is reused when the next one is asked for."""
        with converting(file.path):
            writer = DirectWriter(file.path, file.fd, digests.tar_end)
        proving = self._verifier.proof(digests.diff_id, digests.tar_size, file.path, slots)
        with writer:
            async with proving as proof:
                async for piece in pieces:
                    if digests.tar_size is None and piece.size is not None:
                        digests.tar_size = await self._write_head(digests.name, file)
                        writer.end = digests.tar_end
                    await proof.arrived(piece.memory_offset, len(piece.data))
                    hashed, written = partial(digests.update, piece), partial(_write, piece, writer, file.path)
                    await in_threads(self._threads, hashed, written)
                    advanced(piece.end)
                    await proof.consumed()  # the worker reads from the memory that the next range will overwrite
                # Before the proof's result: wrong bytes explain whatever the proof found in them.
                digests.check()
                await proof.finish()

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
        self, name: LayerName, ranges: Ranges, slots: Slots, download: Download | None = None
    ) -> AsyncGenerator[Piece, None]:
        """All of the layer image in order, while later pieces are already on their way.

        A piece is valid until the next one is asked for: its memory is reused.
        """
        coming: deque[asyncio.Task[Piece]] = deque()

        def request() -> None:
            while len(coming) < slots.count and (wanted := ranges.next()) is not None:
                if wanted.here and download is not None:
                    piece = self._from_download(download, wanted, slots)
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
