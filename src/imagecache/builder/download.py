"""Compressed layers from the registry into resumable files of the store.

One download per digest, appended to what an earlier attempt left, while a worker reads the growing file. The bytes are
trusted only once the worker has hashed them all. It must not interpret them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from imagecache.builder.image_source import ImageSource
from imagecache.errors import ImageNotFound, ProtocolViolation, UnsupportedMediaType
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.reference import Reference
from imagecache.store.downloads import Download

_BATCH = 1 << 20
"""Bytes gathered before they are written: one system call and one message to the worker for each MiB."""


async def fetch(
    source: ImageSource,
    reference: Reference,
    blob: Descriptor,
    download: Download,
    advanced: Callable[[int], Awaitable[None]],
    reserve: Callable[[int], None],
) -> None:
    """Append the rest of ``blob`` to ``download``; ``advanced`` receives the size of the file after each write.

    ``reserve`` is asked for the room of each write, and raises NoSpace.
    """
    if download.offset:
        await advanced(download.offset)
    if download.offset < blob.size:
        try:
            async with aclosing(source.stream(reference, blob, download.offset)) as chunks:
                await _transfer(chunks, download, advanced, reserve)
        except ImageNotFound as error:
            if not mediatypes.is_foreign(blob.media_type):
                raise
            kind = mediatypes.shown(blob.media_type)
            raise UnsupportedMediaType(
                f"layer {blob.digest.short} is foreign ({kind}): its bytes are not in the registry",
                hint="push the image again with its layers included (such layers occur in Windows base images)",
                image=reference.original,
            ) from error
    if download.offset != blob.size:
        raise ProtocolViolation(
            f"layer {blob.digest.short} has {download.offset} bytes; its manifest says {blob.size}",
            hint="the registry holds a damaged image; push it again",
            image=reference.original,
        )


async def _transfer(
    chunks: AsyncIterator[bytes],
    download: Download,
    advanced: Callable[[int], Awaitable[None]],
    reserve: Callable[[int], None],
) -> None:
    batch: list[bytes] = []
    gathered = 0
    try:
        async for chunk in chunks:
            batch.append(chunk)
            gathered += len(chunk)
            if gathered >= _BATCH:
                await _append(download, batch, advanced, reserve)
                gathered = 0
        await _append(download, batch, advanced, reserve)
    except BaseException:
        download.write(b"".join(batch))  # what has arrived is kept, so that the next attempt continues behind it
        raise


async def _append(
    download: Download,
    batch: list[bytes],
    advanced: Callable[[int], Awaitable[None]],
    reserve: Callable[[int], None],
) -> None:
    if batch:
        data = b"".join(batch)
        batch.clear()  # first: without room it is not written by the caller either
        reserve(len(data))
        await asyncio.to_thread(download.write, data)
        await advanced(download.offset)
