"""Drop the second copy of layer images from the page cache, some seconds after containers have started from them.

A layer image mounted straight from its file is cached twice: as pages of the file, and as pages of EROFS. Containers
read the latter; the former are needed only to fill them. Dropping them takes milliseconds, halves the memory, and
changes nothing for readers (numbers in ADR 11). Metadata are cached once, as pages of the file, and stay: later
containers look them up. It must not touch any other file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from imagecache.clock import Clock
from imagecache.concurrency import cancel_all
from imagecache.containerd.api import Containerd, TaskStarted
from imagecache.containerd.native import LayerFiles
from imagecache.containerd.task_starts import follow
from imagecache.erofs.reader import LayerImage
from imagecache.errors import ContainerdUnavailable, ImageCacheError


def drop_second_copy(file: Path) -> None:
    """Drop the clean pages of the layer image's content. A missing or unreadable file is ignored."""
    with contextlib.suppress(ImageCacheError), LayerImage.open(file) as image:
        if content := image.content:  # a length of 0 would mean: to the end of the file
            os.posix_fadvise(image.fileno(), content.start, len(content), os.POSIX_FADV_DONTNEED)


class TrimPlan:
    """Which file is due when. Thread-safe.

    A file that is used again while it waits is trimmed when it is due and a second time one delay later, so that a
    layer from which containers start all the time is trimmed too.
    """

    def __init__(self, delay: float, clock: Clock) -> None:
        self._delay = delay
        self._clock = clock
        self._lock = threading.Lock()
        self._due: dict[Path, float] = {}
        self._again: set[Path] = set()

    def add(self, files: Iterable[Path]) -> bool:
        """Returns whether nothing was waiting: only then is a new file the next that is due."""
        with self._lock:
            first = not self._due
            due = self._clock.monotonic() + self._delay
            for file in files:
                if file in self._due:
                    self._again.add(file)
                else:
                    self._due[file] = due
            return first

    def take(self) -> list[Path]:
        """Remove and return the files that are due."""
        with self._lock:
            now = self._clock.monotonic()
            files = [file for file, due in self._due.items() if due <= now]
            for file in files:
                del self._due[file]
                if file in self._again:
                    self._again.discard(file)
                    self._due[file] = now + self._delay
            return files

    def wait(self) -> float | None:
        """Seconds until a file is due; None when none is waiting."""
        with self._lock:
            return max(0.0, min(self._due.values()) - self._clock.monotonic()) if self._due else None


class Trimmer:
    """Trims the files passed to ``used`` after ``delay`` seconds, while ``run`` runs. A delay of 0 turns it off.

    Args:
        delay: seconds from a use to the trim.
        clock: measures the delay.
        drop: trims one file; blocking, called in a thread.
    """

    def __init__(self, delay: float, clock: Clock, drop: Callable[[Path], None] = drop_second_copy) -> None:
        self._enabled = delay > 0
        self._plan = TrimPlan(delay, clock)
        self._drop = drop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()

    def used(self, layers: Iterable[Path]) -> None:
        """A container is about to read these layer images. Called from any thread, returns at once.

        It wakes ``run`` only when that sleeps without a timeout: the container's start waits for the same event loop.
        """
        if self._enabled and self._plan.add(layers) and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
                self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            for file in self._plan.take():
                await asyncio.to_thread(self._drop, file)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._plan.wait())


async def follow_starts(
    containerd: Containerd, used: Callable[[Iterable[Path]], None], *, pause: float = 1.0, retry: float = 2.0
) -> None:
    """Native mode: call ``used`` with the layer images of every container that starts, until cancelled.

    ``pause`` seconds later, since containerd answers more slowly during the start itself; containers that start
    meanwhile are looked up together. When containerd stops, the event stream is opened again every ``retry`` seconds.
    """
    started: asyncio.Queue[TaskStarted] = asyncio.Queue()
    listening = asyncio.create_task(follow(containerd, started.put_nowait, retry=retry))
    try:
        while True:
            starts = {await started.get()}
            await asyncio.sleep(pause)
            while not started.empty():
                starts.add(started.get_nowait())
            with contextlib.suppress(ContainerdUnavailable):
                await _report(containerd, starts, used)
    finally:
        await cancel_all([listening])


async def _report(
    containerd: Containerd, starts: Iterable[TaskStarted], used: Callable[[Iterable[Path]], None]
) -> None:
    for namespace in sorted({start.namespace for start in starts}):
        session = containerd.session(namespace)
        chains = LayerFiles(session.snapshots)
        for start in starts:
            container = await session.container(start.container_id) if start.namespace == namespace else None
            if container is not None and (files := await chains.below(container)):
                used(files)
