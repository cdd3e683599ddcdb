"""One layer image in a file of its own, without a store: build, verify, export.

The same conversion, derivation and proof that builds use, for the commands ``imagecache layer`` and ``check``.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from imagecache.builder.convert import convert
from imagecache.builder.converted import Converted
from imagecache.builder.derive import derive
from imagecache.builder.garbage import uncollected
from imagecache.builder.image_digest import image_digest
from imagecache.builder.inflate_threads import cores, has_memory, threads_for
from imagecache.builder.malloc import keep_freed_memory
from imagecache.builder.position import Position, position_of
from imagecache.builder.prove import verify as verify_image
from imagecache.builder.worker_messages import Available, Convert
from imagecache.builder.worker_pool import WorkerPool
from imagecache.digest import DiffID
from imagecache.erofs.layer_header import LayerFlags, LayerHeader
from imagecache.erofs.reader import LayerImage
from imagecache.errors import ContentError, DigestMismatch, InternalError, NotFound, SandboxUnavailable, WorkerKilled
from imagecache.layer import parallel_gzip
from imagecache.limits import DEFAULT
from imagecache.oserrors import converting
from imagecache.store.bundle_document import PlacedLayer

_CHUNK = 1 << 20


def build(
    source: BinaryIO,
    output: Path,
    lower: Sequence[Path] = (),
    diff_id: DiffID | None = None,
    *,
    bottom: bool = False,
) -> Converted:
    """Convert a tar (plain, gzip or zstd, detected by its first bytes) to a layer image at ``output``.

    ``lower`` are the layer images below, bottom first; ``bottom``: there are none. ``diff_id`` is what is expected;
    knowing it, a large gzip file is inflated on several cores. ``output`` appears whole or not at all. Raises the
    ContentError family.
    """
    keep_freed_memory()
    with converting(output), _staged(output) as fd, uncollected(), ExitStack() as stack:
        lowers = [stack.enter_context(LayerImage.open(path)) for path in reversed(lower)]
        converted = _on_many_cores(source, fd, diff_id, bottom=bottom) if diff_id is not None else None
        if converted is None:
            chunks = iter(lambda: source.read(_CHUNK), b"")
            return convert(chunks, fd, bottom=bottom, limits=DEFAULT, diff_id=diff_id).finish(fd, lowers)
        if converted.digest is not None:
            return converted
        header = converted.header
        derived = derive(
            fd, tar_size=header.tar_size, diff_id=header.diff_id, lowers=lowers, bottom=bottom, limits=DEFAULT
        )
        return msgspec.structs.replace(derived, threads=converted.threads)


def _on_many_cores(source: BinaryIO, fd: int, diff_id: DiffID, *, bottom: bool) -> Converted | None:
    """None, and an empty file: not worth it here, or the plain decoder must say what is wrong."""
    size = _size_from_start(source)
    threads = threads_for(size, size, cores())
    if not (threads and parallel_gzip.available() and has_memory()):
        return None
    try:
        return asyncio.run(_in_worker([source.fileno(), fd], size, diff_id, threads, bottom=bottom))
    except (ContentError, InternalError, SandboxUnavailable, WorkerKilled):
        os.ftruncate(fd, 0)
        return None


def _size_from_start(source: BinaryIO) -> int:
    """Of a file of which nothing was read; 0 for anything else."""
    try:
        found = os.fstat(source.fileno())
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) and source.tell() == 0 else 0


async def _in_worker(fds: Sequence[int], size: int, diff_id: DiffID, threads: int, *, bottom: bool) -> Converted:
    async with WorkerPool(1, seldom=True) as pool, pool.worker("", parallel=True) as worker:
        job = Convert(blob=None, size=size, diff_id=diff_id, bottom=bottom, threads=threads)
        worker.start(job, fds, lambda wanted: wanted)
        await worker.send(Available(size))
        return await worker.result(Converted, lambda _consumed: None)


def verify(file: Path, diff_id: DiffID | None = None, *, bottom: bool = False, lower: Sequence[Path] = ()) -> Converted:
    """Prove that the data hashes to the diffID, and that the metadata can be derived from the data again.

    ``bottom``: for the bottom of an image; with ``lower``, the layer images below, bottom first: for on top of these.
    Without either: for every position.

    Raises:
        NotFound: the file does not exist.
        ContentError: the file is not a sound layer image, or not that of ``diff_id``.
        StoreCorrupt: it is another one than its tar gives at that position.
    """
    with LayerImage.open(file) as claimed:
        # Two files may be right at one position: that for every position, and that for this one alone. Which of them it
        # means to be is the file's to say: it is proven to be that.
        special = LayerFlags.BOTTOM if bottom else LayerFlags.IMPLIED
        alone = (bottom or bool(lower)) and special in claimed.header.flags
    return _prove(file, Position(everywhere=not alone, bottom=bottom), list(reversed(lower)), diff_id)


def verify_placed(file: Path, placed: PlacedLayer, lowers: Sequence[Path]) -> Converted:
    """Prove that a file is a layer image of a bundle, as nodes do. ``lowers`` are the files of ``placed.below``.

    Raises as ``verify``.
    """
    return _prove(file, position_of(placed), lowers, placed.record.diff_id)


def _prove(file: Path, position: Position, lowers: Sequence[Path], diff_id: DiffID | None) -> Converted:
    with uncollected(), ExitStack() as stack:
        fd = stack.enter_context(_reading(file))
        below = [stack.enter_context(LayerImage.open(path)) for path in lowers]
        image = verify_image(fd, position=position, lowers=below, limits=DEFAULT)
        header = image.header
        if diff_id is not None and diff_id != header.diff_id:
            raise DigestMismatch(
                f"{file} holds the layer {header.diff_id}, not {diff_id}", hint="this is another layer's image"
            )
        return Converted(header=header, size=image.size, digest=image_digest(fd, image.size))


def export(file: Path, output: BinaryIO) -> LayerHeader:
    """Write the original tar, byte for byte."""
    with LayerImage.open(file) as image:
        output.writelines(image.tar())
        return image.header


@contextmanager
def _staged(output: Path) -> Iterator[int]:
    """A file that appears as ``output`` only when the block succeeds."""
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(8)}.tmp")
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        yield fd
        temporary.replace(output)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


@contextmanager
def _reading(file: Path) -> Iterator[int]:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"layer image {file} does not exist") from error
    try:
        yield fd
    finally:
        os.close(fd)
