"""A layer image that a build is writing: how far it is, and a wait for more of it.

A build writes the tar first, in order and in its final place, so nodes need not wait for the end. Who waits blocks a
thread, so only so many may, each for a bounded time; the others do without, and fetch the layer when it is finished. It
must not promise anything: the build may fail or begin again, and only who has all of a layer can tell.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

from imagecache.errors import StoreBusy
from imagecache.served.store_reader import StoreReader
from imagecache.store.model import LayerName


@dataclass(frozen=True, slots=True)
class PartialLayer:
    """An open file, the caller's to close."""

    fd: int
    end: int
    """Bytes before it are final, but for the first 4096 of an unfinished one."""
    size: int | None
    """Of the whole file; None: it is not finished."""


@dataclass(frozen=True, slots=True)
class PartialLayerSettings:
    """Times in seconds."""

    waiting: int = 64
    """Requests that may wait at once."""
    patience: float = 5.0
    """Longest wait for one more byte."""
    pause: float = 0.02
    """Between two looks."""


class PartialLayers:
    """Thread-safe; calls block."""

    def __init__(self, reader: StoreReader, settings: PartialLayerSettings | None = None) -> None:
        self._reader = reader
        self._settings = settings or PartialLayerSettings()
        self._room = threading.BoundedSemaphore(self._settings.waiting)
        self._closed = threading.Event()

    def close(self) -> None:
        """Whoever waits is told to come back."""
        self._closed.set()

    def wait(self, name: LayerName, start: int, end: int) -> PartialLayer:
        """The layer image as soon as its bytes from ``start`` to ``end`` are there, or all that there will be of them.

        In the end as it is, perhaps with nothing new. Raises BlobNotFound when nobody makes it, StoreBusy, StoreError,
        and MalformedLayer for a head that is written at this moment.
        """
        if not self._room.acquire(blocking=False):
            raise StoreBusy("too many readers wait for layers that are being made")
        try:
            return self._wait(name, start, end)
        finally:
            self._room.release()

    def _wait(self, name: LayerName, start: int, end: int) -> PartialLayer:
        until = time.monotonic() + self._settings.patience
        while True:
            found, settled = self._look(name)
            enough = found.end >= end or (settled and found.end > start) or found.size is not None
            if enough or time.monotonic() >= until:
                return found
            os.close(found.fd)
            if self._closed.wait(self._settings.pause):
                raise StoreBusy("the server stops")

    def _look(self, name: LayerName) -> tuple[PartialLayer, bool]:
        """And whether it grows no more before it is finished."""
        fd = self._reader.open_partial(name)
        if fd is None:
            finished, size = self._reader.open_layer(name)
            return PartialLayer(finished, size, size), True
        try:
            end, settled = self._reader.extent(fd)
        except BaseException:
            os.close(fd)
            raise
        return PartialLayer(fd, end, None), settled
