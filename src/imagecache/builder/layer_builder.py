"""One layer into the store: find it, or fetch and convert it, and give each of its positions a file that fits.

The rules of which file may serve which position are here and nowhere else (ADR 2):

* ``layers/<diffID>`` holds only trees that are the same at every position, since containerd >= 2.4 looks them up by
  diffID alone: nothing implied. It may hide things below (whiteouts); then it does not serve a bottom layer.
* ``chains/<chainID>`` holds the rest: implied directories (their attributes come from the layers below), and bottom
  layers that have whiteouts (``docs/internals/unpack-rules.md`` §11).

It must not resolve images and must not know what a bundle is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass

from imagecache.builder.build_plan import LayerGroup
from imagecache.builder.build_progress import BuildProgress
from imagecache.builder.converted import Converted
from imagecache.builder.derive import copy_tar
from imagecache.builder.download import fetch
from imagecache.builder.image_digest import image_digest
from imagecache.builder.image_source import ImageSource
from imagecache.builder.inflate_threads import has_memory, threads_for
from imagecache.builder.position import is_right_everywhere
from imagecache.builder.resolve import LayerPosition
from imagecache.builder.size_limit import Share, SizeLimit
from imagecache.builder.worker_messages import Available, Convert, Derive
from imagecache.builder.worker_pool import WorkerPool
from imagecache.concurrency import run_all
from imagecache.digest import ChainID, Digest
from imagecache.erofs.layer_header import DATA_START, LayerFlags, LayerHeader
from imagecache.erofs.reader import LayerImage
from imagecache.errors import ContentError, DigestMismatch, InternalError, WorkerKilled
from imagecache.layer import parallel_gzip
from imagecache.oserrors import converting
from imagecache.store.bundle_document import LayerRecord
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.layers import StagedLayer
from imagecache.store.locks import FileLock
from imagecache.store.store import Store

_ATTEMPTS = 2
"""Downloads of one layer: wrong bytes are thrown away and fetched again once, since a proxy may have damaged them."""


@dataclass(frozen=True, slots=True)
class _Tar:
    """An open file that holds a layer's verified tar."""

    fd: int
    size: int


class LayerBuilder:
    """Makes the layer images of one build."""

    def __init__(  # noqa: PLR0913 - the parts of one build, wired by BundleBuilder
        self,
        store: Store,
        source: ImageSource,
        pool: WorkerPool,
        progress: BuildProgress,
        limit: SizeLimit,
        known: Mapping[ChainID, LayerRecord],
        *,
        reserve: Callable[[int], None],
        downloads: int,
    ) -> None:
        self._store = store
        self._source = source
        self._pool = pool
        self._progress = progress
        self._limit = limit
        self._known = known
        self._reserve = reserve
        self._downloads = asyncio.Semaphore(downloads)
        self._records: dict[ChainID, asyncio.Future[LayerRecord]] = {}
        self.compressions: dict[Digest, str] = {}
        """Of the blobs that this build has converted."""

    def record(self, chain_id: ChainID) -> asyncio.Future[LayerRecord]:
        """A future that resolves when the position has its layer image."""
        return self._records.setdefault(chain_id, asyncio.get_running_loop().create_future())

    def find(self, position: LayerPosition) -> LayerName | None:
        """The file in the store that already serves a position; None if it has to be made."""
        known = self._known.get(position.chain_id)
        candidates = [known.name] if known else []
        candidates += [LayerName(Space.CHAINS, position.chain_id), LayerName(Space.LAYERS, position.diff_id)]
        for name in candidates:  # a known one first: what it serves is recorded, so its header need not be read
            if self._store.layers.has(name) and (known or self._serves(name, position)):
                return name
        return None

    def _serves(self, name: LayerName, position: LayerPosition) -> bool:
        if name.space is Space.CHAINS or not position.bottom:
            return True
        with LayerImage.open(self._store.layers.path(name)) as image:
            return is_right_everywhere(image.header.flags, bottom=True)

    async def build(self, group: LayerGroup) -> None:
        """Resolve the record of every position of the group."""
        missing = [position for position in group.positions if not await self._reuse(position)]
        if missing:
            await self._make(group, missing)
        self._progress.finished(group.blob.digest)

    async def _make(self, group: LayerGroup, missing: list[LayerPosition]) -> None:
        name = LayerName(Space.LAYERS, group.diff_id)
        async with contextlib.AsyncExitStack() as stack:
            async with _locked(self._store, name) as lock:
                # Another process may have made it while this one waited.
                missing = [position for position in missing if not await self._reuse(position)]
                tar = self._stored_tar(name, stack) if missing else None
                if missing and tar is None:
                    tar = await self._convert(group, missing.pop(0), lock, stack)
            # Not under the lock: the layers below may be another process's to make, and that one may wait for ours.
            for position in missing:
                await self._make_variant(position, group, tar or self._stored_tar(name, stack), stack)

    async def _reuse(self, position: LayerPosition) -> bool:
        """Whether the position has its record, or a file in the store gives it one."""
        if self.record(position.chain_id).done():
            return True
        name = self.find(position)
        if name is None:
            return False
        known = self._known.get(position.chain_id)
        self._settle(known if known and known.name == name else await asyncio.to_thread(self._read, name, position))
        return True

    def _read(self, name: LayerName, position: LayerPosition) -> LayerRecord:
        """The record of a file that no bundle names: an interrupted build left it."""
        with self._open(name) as fd:
            size = os.fstat(fd).st_size
            return _record(position, name, LayerImage.from_fd(fd).header, size, image_digest(fd, size))

    @contextlib.contextmanager
    def _open(self, name: LayerName) -> Iterator[int]:
        path = self._store.layers.path(name)
        with converting(path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def _stored_tar(self, name: LayerName, stack: contextlib.AsyncExitStack) -> _Tar | None:
        if not self._store.layers.has(name):
            return None
        fd = stack.enter_context(self._open(name))
        return _Tar(fd, LayerImage.from_fd(fd).header.tar_size)

    async def _convert(
        self, group: LayerGroup, position: LayerPosition, lock: FileLock, stack: contextlib.AsyncExitStack
    ) -> _Tar:
        """Fetch and convert the layer for one of its positions. Nodes may prefetch: the tar is final as written."""
        staged, share = stack.enter_context(self._store.layers.stage()), stack.enter_context(self._limit.share())
        self._store.layers.announce(lock, staged)
        converted = await self._attempts(group, position, staged, share)
        tar = _Tar(staged.fd, converted.header.tar_size)
        if converted.digest is None:
            converted = await self._derive(position, group, tar, share)
        await self._commit(position, staged, share, converted)
        return tar

    async def _attempts(
        self, group: LayerGroup, position: LayerPosition, staged: StagedLayer, share: Share
    ) -> Converted:
        async def once(threads: int = 0) -> Converted:
            os.ftruncate(staged.fd, 0)
            share.clear()
            return await self._fetch_and_convert(group, position, staged, share, threads)

        threads = threads_for(group.blob.size, self._progress.left, self._pool.size)
        if threads and parallel_gzip.available() and has_memory():
            # whatever it says: the plain decoder's word counts, of what is wrong too
            with contextlib.suppress(ContentError, InternalError, WorkerKilled):
                return await once(threads)
        for attempt in range(_ATTEMPTS):
            try:
                return await _again_if_killed(group.diff_id, once)
            except DigestMismatch:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError  # the last attempt returns or raises

    async def _fetch_and_convert(
        self, group: LayerGroup, position: LayerPosition, staged: StagedLayer, share: Share, threads: int
    ) -> Converted:
        """Download while a worker reads the growing file. The partial download survives anything but wrong bytes."""
        blob = group.blob
        async with self._downloads, self._pool.worker(group.reference.original, parallel=threads > 0) as worker:
            with await asyncio.to_thread(self._store.downloads.open, blob.digest, blob.size) as download:

                async def advanced(size: int) -> None:
                    self._progress.downloaded(blob.digest, size)
                    await worker.send(Available(size))

                def consumed(size: int) -> None:
                    self._progress.converted(blob.digest, size)

                job = Convert(
                    blob=blob.digest,
                    size=blob.size,
                    diff_id=group.diff_id,
                    bottom=position.bottom,
                    largest=self._limit.limit,
                    threads=threads,
                )
                worker.start(job, [download.fd, staged.fd], share.ask)
                transfer = fetch(self._source, group.reference, blob, download, advanced, self._reserve)
                try:
                    _, converted = await run_all(transfer, worker.result(Converted, consumed))
                except ContentError:
                    if not threads:
                        download.discard()  # wrong bytes, or right ones that cannot be used
                    raise
                download.discard()
                self.compressions[blob.digest] = converted.compression
                return converted

    async def _make_variant(
        self, position: LayerPosition, group: LayerGroup, tar: _Tar | None, stack: contextlib.AsyncExitStack
    ) -> None:
        """Another position of a layer whose tar is in the store: the same bytes, perhaps another tree."""
        if tar is None or await self._reuse(position):
            return
        staged, share = stack.enter_context(self._store.layers.stage()), stack.enter_context(self._limit.share())
        share.ask(DATA_START + tar.size)
        # A copy, not a link: what follows the tar differs. Where the filesystem shares blocks, it costs nothing.
        await asyncio.to_thread(copy_tar, tar.fd, staged.fd, tar.size)
        converted = await self._derive(position, group, _Tar(staged.fd, tar.size), share)
        await self._commit(position, staged, share, converted)

    async def _derive(self, position: LayerPosition, group: LayerGroup, tar: _Tar, share: Share) -> Converted:
        """Make the filesystem of a position behind its tar; waits for the layers below, whose attributes it needs."""
        # Shielded: cancelling this build of a layer must not cancel the future that others wait for.
        lowers = [await asyncio.shield(self.record(chain_id)) for chain_id in position.below]
        with contextlib.ExitStack() as stack:
            below = [stack.enter_context(self._open(lower.name)) for lower in lowers]
            job = Derive(
                tar_size=tar.size,
                diff_id=position.diff_id,
                bottom=position.bottom,
                largest=self._limit.limit,
            )

            async def once() -> Converted:
                async with self._pool.worker(group.reference.original) as worker:
                    worker.start(job, [tar.fd, *below], share.ask)
                    return await worker.result(Converted, lambda _consumed: None)

            return await _again_if_killed(position.diff_id, once)

    async def _commit(self, position: LayerPosition, staged: StagedLayer, share: Share, converted: Converted) -> None:
        name = name_for(position, converted.header.flags)
        share.clear()
        self._limit.take(str(name), converted.size)  # before the commit: a bundle that is too large leaves no file
        await asyncio.to_thread(staged.commit, name)
        assert converted.digest is not None  # noqa: S101 - a layer image that is complete has one
        self._settle(_record(position, name, converted.header, converted.size, converted.digest))

    def _settle(self, record: LayerRecord) -> None:
        self._limit.take(str(record.name), record.size)
        future = self.record(record.chain_id)
        if not future.done():
            future.set_result(record)


def name_for(position: LayerPosition, flags: LayerFlags) -> LayerName:
    """Where a layer image made for ``position`` belongs."""
    if is_right_everywhere(flags, bottom=position.bottom):
        return LayerName(Space.LAYERS, position.diff_id)
    return LayerName(Space.CHAINS, position.chain_id)


def _record(position: LayerPosition, name: LayerName, header: LayerHeader, size: int, digest: Digest) -> LayerRecord:
    return LayerRecord(
        diff_id=position.diff_id,
        chain_id=position.chain_id,
        name=name,
        blob=position.blob,
        size=size,
        digest=digest,
        tar_size=header.tar_size,
        entries=header.entries,
    )


async def _again_if_killed(layer: Digest, work: Callable[[], Awaitable[Converted]]) -> Converted:
    """Once more, for it may have been another one's memory that ran out; but not for ever."""
    with contextlib.suppress(WorkerKilled):
        return await work()
    try:
        return await work()
    except WorkerKilled as error:
        raise WorkerKilled(f"layer {layer.short}: {error.message}, for the second time", hint=error.hint) from error


@contextlib.asynccontextmanager
async def _locked(store: Store, name: LayerName) -> AsyncIterator[FileLock]:
    """One process at a time makes a layer; the others wait, and then find it in the store."""
    lock = store.layers.lock(name)
    try:
        await asyncio.to_thread(lock.acquire)
        yield lock
    finally:
        lock.release()
