"""Partial layers: how far a build has written a layer image, and a wait for more of it.

A build writes the tar first, in order and in its final position in the file, so nodes need not wait for the end. A
caller that waits blocks a thread, so only a bounded number may, each for a bounded time; the others get StoreBusy, and
fetch the layer when it is finished. It must not promise anything: the build may fail or start again, and only a reader
that has all of a layer can verify it.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

from imagecache.errors import StoreBusy
from imagecache.served.store_reader import StoreReader
from imagecache.store.layer_name import LayerName


@dataclass(frozen=True, slots=True)
class PartialLayer:
    """An open file, the caller's to close."""

    fd: int
    end: int
    """Bytes before it are final, except the first 4096 of an unfinished file."""
    size: int | None
    """Of the whole file; None: it is not finished."""


@dataclass(frozen=True, slots=True)
class PartialLayerSettings:
    """Times in seconds."""

    waiters: int = 64
    """Requests that may wait at a time."""
    timeout: float = 5.0
    """Longest wait for one more byte."""
    poll_interval: float = 0.02
    """The store may be a network filesystem, which has no inotify: so it is polled."""


class PartialLayers:
    """Thread-safe; calls block."""

    def __init__(self, reader: StoreReader, settings: PartialLayerSettings | None = None) -> None:
        self._reader = reader
        self._settings = settings or PartialLayerSettings()
        self._waiters = threading.BoundedSemaphore(self._settings.waiters)
        self._closed = threading.Event()

    def close(self) -> None:
        """Threads that wait get StoreBusy."""
        self._closed.set()

    def wait(self, name: LayerName, start: int, end: int) -> PartialLayer:
        """The layer image as soon as its bytes from ``start`` to ``end`` exist, or all that there will be of them.

        After the timeout, the layer image as it is, perhaps with nothing new. Raises BlobNotFound when nobody makes it,
        StoreBusy, StoreError, and MalformedLayer for a head that is being written at this moment.
        """
        if not self._waiters.acquire(blocking=False):
            raise StoreBusy("too many readers wait for partial layers")
        try:
            until = time.monotonic() + self._settings.timeout
            while True:
                found, settled = self._look(name)
                enough = found.end >= end or (settled and found.end > start) or found.size is not None
                if enough or time.monotonic() >= until:
                    return found
                # Opened again each time: its builder may have committed it, or started again with another file.
                os.close(found.fd)
                if self._closed.wait(self._settings.poll_interval):
                    raise StoreBusy("the server is stopping")
        finally:
            self._waiters.release()

    def _look(self, name: LayerName) -> tuple[PartialLayer, bool]:
        """The layer image as it is, and whether its tar is complete: then nothing is appended before it is finished."""
        fd = self._reader.open_partial(name)
        if fd is None:
            finished, size = self._reader.open_layer(name)
            return PartialLayer(finished, size, size), True
        try:
            end, settled = self._reader.tar_extent(fd)
        except BaseException:
            os.close(fd)
            raise
        return PartialLayer(fd, end, None), settled
