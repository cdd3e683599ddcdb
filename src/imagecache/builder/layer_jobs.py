"""One layer into the store: find it, or fetch and convert it, and give every place of it a file that is right there.

The rules of which file may serve which place are here and nowhere else:

* ``layers/<diffID>`` holds only trees that are the same at every place, since containerd >= 2.4 looks them up by diffID
  alone: nothing implied. It may hide things below (whiteouts); then it does not serve a bottom layer.
* ``chains/<chainID>`` holds the rest: parents implied (their attributes come from the layers below), and bottom layers
  that have whiteouts (unpack-rules §11).

It must not resolve images and must not know what a bundle is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass

from imagecache.builder.convert import hash_file
from imagecache.builder.derive import copy_tar
from imagecache.builder.download import fetch
from imagecache.builder.image_source import ImageSource
from imagecache.builder.plan import Budget, LayerGroup, Place
from imagecache.builder.progress import NodeState
from imagecache.builder.worker_messages import Available, Convert, Derive, Done
from imagecache.builder.worker_pool import WorkerPool
from imagecache.concurrency import run_all
from imagecache.digest import ChainID
from imagecache.erofs.header import LayerFlags
from imagecache.erofs.reader import LayerImage
from imagecache.errors import ContentError, DigestMismatch
from imagecache.oserrors import converting
from imagecache.store.layers import StagedLayer
from imagecache.store.locks import FileLock
from imagecache.store.model import LayerName, LayerRecord, Space
from imagecache.store.store import Store

_ATTEMPTS = 2
"""Downloads of one layer: bytes that turn out wrong are thrown away and fetched once more."""


@dataclass(frozen=True, slots=True)
class _Tar:
    """An open file that holds a layer's verified tar."""

    fd: int
    size: int


class LayerBuilder:
    """Makes the layer images of one build."""

    def __init__(  # noqa: PLR0913 - the parts of one build, wired by ImageBuilder
        self,
        store: Store,
        source: ImageSource,
        pool: WorkerPool,
        ledger: NodeState,
        budget: Budget,
        known: Mapping[ChainID, LayerRecord],
        *,
        downloads: int,
    ) -> None:
        self._store = store
        self._source = source
        self._pool = pool
        self._ledger = ledger
        self._budget = budget
        self._known = known
        self._downloads = asyncio.Semaphore(downloads)
        self._records: dict[ChainID, asyncio.Future[LayerRecord]] = {}

    def record(self, chain_id: ChainID) -> asyncio.Future[LayerRecord]:
        """Resolves when the place has its layer image."""
        return self._records.setdefault(chain_id, asyncio.get_running_loop().create_future())

    def find(self, place: Place) -> LayerName | None:
        """The file in the store that serves a place already."""
        known = self._known.get(place.chain_id)
        candidates = [known.name] if known else []
        candidates += [LayerName(Space.CHAINS, place.chain_id), LayerName(Space.LAYERS, place.diff_id)]
        for name in candidates:
            if self._store.layers.has(name) and (known or self._serves(name, place)):
                return name
        return None

    def _serves(self, name: LayerName, place: Place) -> bool:
        if name.space is Space.CHAINS or not place.bottom:
            return True
        with LayerImage.open(self._store.layers.path(name)) as image:
            return not image.header.flags & LayerFlags.WHITEOUTS

    async def build(self, group: LayerGroup) -> None:
        """Fill in the record of every place of the group."""
        missing = [place for place in group.places if not await self._reuse(place)]
        if not missing:
            self._ledger.finished(group.blob.digest)
            return
        name = LayerName(Space.LAYERS, group.diff_id)
        async with contextlib.AsyncExitStack() as stack:
            async with _locked(self._store, name) as lock:
                # another process may have made it while this one waited
                missing = [place for place in missing if not await self._reuse(place)]
                tar = self._stored_tar(name, stack) if missing else None
                if missing and tar is None:
                    tar = await self._convert(group, missing.pop(0), lock, stack)
            # not under the lock: the layers below may be another process's to make
            for place in missing:
                await self._vary(place, tar or self._stored_tar(name, stack), stack)
        self._ledger.finished(group.blob.digest)

    async def _reuse(self, place: Place) -> bool:
        if self.record(place.chain_id).done():
            return True
        name = self.find(place)
        if name is None:
            return False
        known = self._known.get(place.chain_id)
        record = known if known and known.name == name else await asyncio.to_thread(self._describe, name, place)
        self._settle(place, record)
        return True

    def _describe(self, name: LayerName, place: Place) -> LayerRecord:
        """The record of a file that an interrupted build left."""
        with self._open(name) as fd:
            header = LayerImage.from_fd(fd).header
            size = os.fstat(fd).st_size
            return LayerRecord(
                diff_id=place.diff_id,
                chain_id=place.chain_id,
                name=name,
                blob=place.blob,
                size=size,
                sha256=hash_file(fd, size),
                tar_size=header.tar_size,
                entries=header.entries,
            )

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

    async def _convert(self, group: LayerGroup, place: Place, lock: FileLock, stack: contextlib.AsyncExitStack) -> _Tar:
        """Fetch and convert the layer for one of its places. Nodes may follow: the tar is final as it is written."""
        staged = stack.enter_context(self._store.layers.stage())
        self._store.layers.announce(lock, staged)
        for attempt in range(_ATTEMPTS):
            try:
                done = await self._fetch_and_convert(group, place, staged)
                break
            except DigestMismatch as error:
                if attempt == _ATTEMPTS - 1:
                    raise error.for_image(group.reference.original) from error
                os.ftruncate(staged.fd, 0)
        if done.context:
            done = await self._derive(place, staged.fd, done.tar_size)
        await self._commit(place, staged, done)
        return _Tar(staged.fd, done.tar_size)

    async def _fetch_and_convert(self, group: LayerGroup, place: Place, staged: StagedLayer) -> Done:
        """Download while a worker follows; the partial download survives anything but wrong bytes."""
        blob = group.blob
        async with self._downloads, self._pool.worker() as worker:
            with await asyncio.to_thread(self._store.downloads.open, blob.digest, blob.size) as download:

                async def advanced(size: int) -> None:
                    self._ledger.downloaded(blob.digest, size)
                    await worker.tell(Available(size))

                job = Convert(blob=blob.digest, size=blob.size, diff_id=group.diff_id, bottom=place.bottom)
                worker.start(job, [download.fd, staged.fd])
                transfer = fetch(self._source, group.reference, blob, download, advanced)
                try:
                    _, done = await run_all(transfer, worker.result(self._converted(group)))
                except ContentError:
                    download.discard()  # wrong bytes, or right ones that nobody can use
                    raise
                download.discard()
                return done

    def _converted(self, group: LayerGroup) -> Callable[[int], None]:
        return lambda consumed: self._ledger.converted(group.blob.digest, consumed)

    async def _vary(self, place: Place, tar: _Tar | None, stack: contextlib.AsyncExitStack) -> None:
        """Another place of a layer whose tar is here: the same bytes, perhaps another tree."""
        if tar is None or await self._reuse(place):
            return
        staged = stack.enter_context(self._store.layers.stage())
        await asyncio.to_thread(copy_tar, tar.fd, staged.fd, tar.size)
        await self._commit(place, staged, await self._derive(place, staged.fd, tar.size))

    async def _derive(self, place: Place, fd: int, tar_size: int) -> Done:
        """Make the tree of a place whose attributes come from the layers below; waits for those."""
        lowers = [await asyncio.shield(self.record(chain_id)) for chain_id in place.below]
        with contextlib.ExitStack() as stack:
            below = [stack.enter_context(self._open(lower.name)) for lower in lowers]
            async with self._pool.worker() as worker:
                job = Derive(tar_size=tar_size, diff_id=place.diff_id, bottom=place.bottom)
                worker.start(job, [fd, *below])
                return await worker.result(lambda _consumed: None)

    async def _commit(self, place: Place, staged: StagedLayer, done: Done) -> None:
        name = name_for(place, LayerFlags(done.flags))
        self._budget.take(str(name), done.size)
        await asyncio.to_thread(staged.commit, name)
        assert done.sha256 is not None  # noqa: S101 - a finished layer image has one
        self._settle(
            place,
            LayerRecord(
                diff_id=place.diff_id,
                chain_id=place.chain_id,
                name=name,
                blob=place.blob,
                size=done.size,
                sha256=done.sha256,
                tar_size=done.tar_size,
                entries=done.entries,
            ),
        )

    def _settle(self, place: Place, record: LayerRecord) -> None:
        self._budget.take(str(record.name), record.size)
        future = self.record(place.chain_id)
        if not future.done():
            future.set_result(record)


def name_for(place: Place, flags: LayerFlags) -> LayerName:
    """Where a layer image made for ``place`` belongs."""
    everywhere = not flags & LayerFlags.IMPLIED and not (place.bottom and flags & LayerFlags.WHITEOUTS)
    if everywhere:
        return LayerName(Space.LAYERS, place.diff_id)
    return LayerName(Space.CHAINS, place.chain_id)


@contextlib.asynccontextmanager
async def _locked(store: Store, name: LayerName) -> AsyncIterator[FileLock]:
    """One process at a time makes a layer; the others wait and then find it."""
    lock = store.layers.lock(name)
    try:
        await asyncio.to_thread(lock.acquire)
        yield lock
    finally:
        lock.release()
