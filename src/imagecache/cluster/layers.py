"""One layer image from the remote store into the node's own: in parallel ranges, hashed in order, never half.

Ranges arrive in any order, a few at a time; each is appended when its turn comes, so what a killed agent leaves is a
beginning, and the next one goes on from there (``store.downloads``, by the file's SHA-256). The bytes are believed when
the tar in it has the diffID and the rest follows from the tar; where that cannot be shown, when the file has its digest
too. It must not know which cache a layer is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from imagecache.build.writeback import WriteBehind
from imagecache.cluster.ports import Verifier
from imagecache.cluster.threads import in_threads
from imagecache.erofs.header import DATA_START
from imagecache.errors import ContentError, DigestMismatch, NoSpace, StoreCorrupt
from imagecache.limits import MIB
from imagecache.oserrors import converting
from imagecache.served.ports import RemoteStore
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

    range_size: int = 4 * MIB
    ranges: int = 4
    """Of one layer, at once."""
    layers: int = 4
    """At once; the rest wait."""
    attempts: int = 2
    """Fetches of one layer whose bytes turn out wrong."""
    threads: int = 6
    """For hashing and writing."""


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
        self._fetching = 0
        self._buffers: list[bytearray] = []
        """Of ranges that were written, for the next ones: fresh memory costs a page fault every 4 KiB."""

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def fetch(self, layer: LayerRecord, advanced: Advanced) -> None:
        """Have the layer image in the store. The caller holds a lease on its name. Resumable when cancelled.

        Raises StoreUnreachable, StoreRefused, BlobNotFound, DigestMismatch, StoreCorrupt, NoSpace, StoreError, and what
        a malformed layer image raises.
        """
        async with self._turns, self._buffered(), _locked(self._store, layer.name):
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
        advanced(layer.size)

    @contextlib.asynccontextmanager
    async def _buffered(self) -> AsyncIterator[None]:
        """Buffers stay while anything is fetched."""
        self._fetching += 1
        try:
            yield
        finally:
            self._fetching -= 1
            if not self._fetching:
                self._buffers.clear()

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
                hashes = _Hashes(layer, file=not self._verifier.proves(layer))
                await self._resume(download, hashes, advanced)
                await self._transfer(layer, download, hashes, advanced)
                hashes.check()
                await self._verifier.verify(download.fd, layer)
            except (ContentError, StoreCorrupt, NoSpace):
                download.discard()
                raise
            with self._store.layers.adopt(download) as staged:
                await in_threads(self._threads, lambda: staged.commit(layer.name))

    async def _resume(self, download: Download, hashes: _Hashes, advanced: Advanced) -> None:
        """Hash what an earlier fetch left."""
        position = 0
        while position < download.offset:
            with converting(download.path):
                data = await asyncio.to_thread(os.pread, download.fd, self._settings.range_size, position)
            await in_threads(self._threads, *hashes.works(position, data))
            position += len(data)
        advanced(position)

    async def _transfer(self, layer: LayerRecord, download: Download, hashes: _Hashes, advanced: Advanced) -> None:
        behind = WriteBehind(download.fd)
        async with contextlib.aclosing(self._ranges(layer, download.offset)) as ranges:
            async for data in ranges:
                offset = download.offset
                await in_threads(
                    self._threads,
                    *hashes.works(offset, data),
                    lambda offset=offset, data=data: _append(download, behind, offset, data),  # type: ignore[misc]
                )
                advanced(download.offset)

    async def _ranges(self, layer: LayerRecord, start: int) -> AsyncGenerator[memoryview, None]:
        """The bytes from ``start`` on, range by range in order, while later ones are already on their way.

        A range is good until the next one is asked for: its buffer is used again.
        """
        spans = self._spans(start, layer.size)
        coming: deque[tuple[int, asyncio.Task[bytearray]]] = deque()
        try:
            while True:
                while len(coming) < self._settings.ranges and (span := next(spans, None)) is not None:
                    coming.append((span[1], asyncio.create_task(self._range(layer.name, *span))))
                if not coming:
                    return
                length, task = coming[0]
                buffer = await task
                yield memoryview(buffer)[:length]
                coming.popleft()
                self._buffers.append(buffer)
        finally:
            for _, task in coming:
                task.cancel()
            await asyncio.gather(*(task for _, task in coming), return_exceptions=True)

    def _spans(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        size = self._settings.range_size
        return ((at, min(size, end - at)) for at in range(start, end, size))

    async def _range(self, name: LayerName, offset: int, length: int) -> bytearray:
        """The bytes, at the beginning of a buffer."""
        buffer = self._buffers.pop() if self._buffers else bytearray(self._settings.range_size)
        await self._remote.layer(name, offset, memoryview(buffer)[:length])
        self._fetched(length)
        return buffer


def _append(download: Download, behind: WriteBehind, offset: int, data: memoryview) -> None:
    with converting(download.path):
        behind.write(offset, data)
    download.offset = offset + len(data)


@contextlib.asynccontextmanager
async def _locked(store: Store, name: LayerName) -> AsyncIterator[None]:
    """One process at a time fetches or makes a layer; the others wait and then find it."""
    lock = store.layers.lock(name)
    try:
        while not lock.try_acquire():  # noqa: ASYNC110 - a lock between processes has no event
            await asyncio.sleep(_LOCK_POLL)
        yield
    finally:
        lock.release()
