"""One layer image from the remote store into the node's own: in parallel ranges, hashed in order, never half.

Ranges arrive in any order, a few at a time; each is hashed, proven and appended when its turn comes, from the memory
that it arrived in. What a killed agent leaves is a beginning, and the next one goes on from there (``store.downloads``,
by the file's SHA-256). The bytes are believed when the tar in it has the diffID and the rest follows from the tar;
where that cannot be shown, when the file has its digest too. It must not know which cache a layer is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from imagecache.concurrency import cancel_all
from imagecache.erofs.layer_header import DATA_START
from imagecache.errors import ContentError, DigestMismatch, NoSpace, StoreCorrupt
from imagecache.fetch.buffers import SlotPool, Slots
from imagecache.fetch.direct_io import DirectWriter
from imagecache.fetch.threads import in_threads
from imagecache.fetch.verifier import Proof, Verifier
from imagecache.limits import MIB
from imagecache.oserrors import converting
from imagecache.served.remote_store import RemoteStore
from imagecache.store.downloads import Download
from imagecache.store.model import LayerName, LayerRecord
from imagecache.store.quarantine import set_aside
from imagecache.store.store import Store
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_LOCK_POLL = 0.05
Advanced = Callable[[int], None]
"""Gets the bytes of the layer image that are on this node; fewer than before when they had to be thrown away."""


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """Memory: ``layers * ranges * range_size`` bytes at most."""

    range_size: int = 8 * MIB
    """A request, and a piece that is hashed, proven and written: smaller ones cost more of each."""
    ranges: int = 3
    """Of one layer, at once: two come while one is worked on."""
    layers: int = 3
    """At once; the rest wait."""
    attempts: int = 2
    """Fetches of one layer whose bytes turn out wrong."""
    threads: int = 6
    """For hashing and writing."""


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    here: bool
    """An earlier fetch has written it."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Of a layer image, in memory."""

    span: _Span
    place: int
    """Where it begins in the memory that is shared with the verifier."""
    data: memoryview


class _Hashes:
    """Digests of a layer image, while its bytes come in order: of the tar in it, and of the file when asked for."""

    def __init__(self, layer: LayerRecord, *, file: bool) -> None:
        self._layer = layer
        self._file = hashlib.sha256() if file else None
        self._tar = hashlib.sha256()
        self._end = DATA_START + layer.tar_size

    def works(self, offset: int, data: bytes | memoryview) -> list[Callable[[], None]]:
        """Hash ``data``, which is at ``offset``: calls that may run at the same time."""
        inside = memoryview(data)[max(DATA_START - offset, 0) : max(self._end - offset, 0)]
        works = [lambda: self._tar.update(inside)]
        if self._file is not None:
            works.append(partial(self._file.update, data))
        return works

    def check(self) -> None:
        """Raises DigestMismatch."""
        found = [("its tar", self._tar.hexdigest(), self._layer.diff_id.hex)]
        if self._file is not None:
            found.append(("the file", self._file.hexdigest(), self._layer.sha256.hex))
        for what, digest, wanted in found:
            if digest != wanted:
                raise DigestMismatch(
                    f"layer image {self._layer.name} arrived damaged: {what} has sha256:{digest}, not {wanted}",
                    hint="it is fetched again; if it stays so, check the store where it is: imagecache check --deep",
                )


class LayerFetcher:
    """Fetches layer images; one for a node. ``close`` ends its threads."""

    def __init__(
        self,
        store: Store,
        remote: RemoteStore,
        verifier: Verifier,
        settings: FetchSettings | None = None,
        *,
        fetched: Callable[[int], None] = lambda _size: None,
    ) -> None:
        """``fetched`` gets the bytes of each range that came."""
        self._fetched = fetched
        self._store = store
        self._remote = remote
        self._verifier = verifier
        self._settings = settings or FetchSettings()
        self._turns = asyncio.Semaphore(self._settings.layers)
        self._threads = ThreadPoolExecutor(self._settings.threads, thread_name_prefix="fetch")
        self._memory = SlotPool(self._settings.ranges, self._settings.range_size)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def fetch(self, layer: LayerRecord, advanced: Advanced) -> None:
        """Have the layer image in the store. The caller holds a lease on its name. Resumable when cancelled.

        Raises StoreUnreachable, StoreRefused, BlobNotFound, DigestMismatch, StoreCorrupt, NoSpace, StoreError, and what
        a malformed layer image raises.
        """
        async with self._turns, locked(self._store, layer.name):
            with self._memory.kept():
                await self._try(layer, advanced)
        advanced(layer.size)

    async def _try(self, layer: LayerRecord, advanced: Advanced) -> None:
        for attempt in range(1, self._settings.attempts + 1):
            if self._present(layer):
                break
            try:
                await self._attempt(layer, advanced)
            except (ContentError, StoreCorrupt) as error:
                advanced(0)
                _log.warning("layer image thrown away", layer=str(layer.name), attempt=attempt, problem=str(error))
                if attempt == self._settings.attempts:
                    raise

    def _present(self, layer: LayerRecord) -> bool:
        """Whether the store has it; a file of the wrong size is set aside (containers that use it go on)."""
        layers = self._store.layers
        if not layers.has(layer.name):
            return False
        if layers.size(layer.name) == layer.size:
            return True
        moved = set_aside(self._store.paths, layers.path(layer.name))
        _log.warning("layer image set aside: wrong size", layer=str(layer.name), moved=str(moved))
        return False

    async def _attempt(self, layer: LayerRecord, advanced: Advanced) -> None:
        with await asyncio.to_thread(self._store.downloads.open, layer.sha256, layer.size) as download:
            try:
                await self._transfer(layer, download, advanced)
            except (ContentError, StoreCorrupt, NoSpace):
                download.discard()
                raise
            with self._store.layers.adopt(download) as staged:
                await in_threads(self._threads, lambda: staged.commit(layer.name))

    async def _transfer(self, layer: LayerRecord, download: Download, advanced: Advanced) -> None:
        hashes = _Hashes(layer, file=not self._verifier.proves(layer))
        with converting(download.path):
            writer = DirectWriter(download.path, download.fd, DATA_START + layer.tar_size)
        with writer, self._memory.borrow() as slots:
            async with self._proof(layer, download, slots) as proof:
                async with contextlib.aclosing(self._pieces(layer, download, slots)) as pieces:
                    async for piece in pieces:
                        await proof.arrived(piece.place, len(piece.data))
                        works = hashes.works(piece.span.start, piece.data)
                        await in_threads(self._threads, *works, partial(_keep, piece, writer, download.path))
                        download.offset = max(download.offset, piece.span.end)
                        advanced(piece.span.end)
                        await proof.consumed()
                hashes.check()
                await proof.finish()

    def _proof(self, layer: LayerRecord, download: Download, slots: Slots) -> AbstractAsyncContextManager[Proof]:
        return self._verifier.proof(layer.diff_id, layer.tar_size, download.path, slots)

    async def _pieces(self, layer: LayerRecord, download: Download, slots: Slots) -> AsyncGenerator[_Piece, None]:
        """All of the layer image in order, while later pieces are already on their way.

        A piece is good until the next one is asked for: its memory is used again.
        """
        numbered = enumerate(self._spans(download.offset, layer.size))
        coming: deque[asyncio.Task[_Piece]] = deque()
        try:
            while True:
                while len(coming) < slots.count and (span := next(numbered, None)) is not None:
                    coming.append(asyncio.create_task(self._piece(layer.name, download, slots, *span)))
                if not coming:
                    return
                yield await coming[0]
                coming.popleft()
        finally:
            await cancel_all(coming)

    def _spans(self, here: int, end: int) -> Iterator[_Span]:
        """What an earlier fetch left, which ends at ``here``, and then the rest."""
        at = 0
        while at < end:
            border = at - at % self._settings.range_size + self._settings.range_size
            stop = min(border, here if at < here else end)
            yield _Span(at, stop, here=at < here)
            at = stop

    async def _piece(self, name: LayerName, download: Download, slots: Slots, number: int, span: _Span) -> _Piece:
        data = slots.piece(number, span.end - span.start)
        if span.here:
            await in_threads(self._threads, lambda: _read(download, span.start, data))
        else:
            await self._remote.layer(name, span.start, data)
            self._fetched(len(data))
        return _Piece(span, slots.offset(number), data)


def _keep(piece: _Piece, writer: DirectWriter, path: Path) -> None:
    if not piece.span.here:
        with converting(path):
            writer.write(piece.span.start, piece.data)


def _read(download: Download, offset: int, target: memoryview) -> None:
    with converting(download.path):
        while target:
            count = os.preadv(download.fd, [target], offset)
            if not count:
                raise StoreCorrupt(f"{download.path} became shorter", hint="it is fetched again")
            target, offset = target[count:], offset + count


@contextlib.asynccontextmanager
async def locked(store: Store, name: LayerName) -> AsyncIterator[None]:
    """One process at a time fetches or makes a layer; the others wait and then find it."""
    lock = store.layers.lock(name)
    try:
        while not lock.try_acquire():  # noqa: ASYNC110 - a lock between processes has no event
            await asyncio.sleep(_LOCK_POLL)
        yield
    finally:
        lock.release()
