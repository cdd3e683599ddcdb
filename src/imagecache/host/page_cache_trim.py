"""Drop the second copy of layer images from the page cache, some seconds after containers started from them.

A layer image mounted straight from its file is cached twice: as the file's pages, and as EROFS's own. The second is
what containers read; the first is only needed while it fills. Dropping it costs milliseconds, halves the memory, and
changes nothing that a reader sees (ADR 11 has numbers). Metadata are cached once, as the file's pages, and stay: every
container that comes later looks them up. It must not touch any other file.
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
from imagecache.erofs.reader import LayerImage
from imagecache.errors import ContainerdUnavailable, ImageCacheError


def drop_second_copy(file: Path) -> None:
    """Forget the clean pages of the layer image's content. One that is gone, or cannot be read, is left alone."""
    with contextlib.suppress(ImageCacheError), LayerImage.open(file) as image:
        if content := image.content:  # a length of 0 would mean: to the end of the file
            os.posix_fadvise(image.fileno(), content.start, len(content), os.POSIX_FADV_DONTNEED)


class TrimPlan:
    """When which file is due. Safe to call from many threads.

    A file used again while it waits is trimmed at its time and once more after that, so that a layer from which
    containers start all the time is trimmed all the same.
    """

    def __init__(self, delay: float, clock: Clock) -> None:
        self._delay = delay
        self._clock = clock
        self._lock = threading.Lock()
        self._due: dict[Path, float] = {}
        self._again: set[Path] = set()

    def add(self, files: Iterable[Path]) -> bool:
        """Whether nothing was waiting before: what comes later is due later, too."""
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
        """The files whose time has come; they are not waiting any more."""
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
    """Trims what ``used`` names, ``delay`` seconds later, while ``run`` runs. A delay of 0 turns it off.

    Args:
        delay: seconds from a use to the trim.
        clock: measures the delay.
        drop: does it; blocking, called in a thread.
    """

    def __init__(self, delay: float, clock: Clock, drop: Callable[[Path], None] = drop_second_copy) -> None:
        self._enabled = delay > 0
        self._plan = TrimPlan(delay, clock)
        self._drop = drop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()

    def used(self, layers: Iterable[Path]) -> None:
        """A container is about to read these layer images. Callable from any thread, returns at once.

        It wakes ``run`` only when that sleeps without end: a container that starts waits for the same loop.
        """
        if self._enabled and self._plan.add(layers) and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the program ends
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
    """Native mode: tell ``used`` about the layer images of every container that starts, until cancelled.

    A while after it: asking containerd takes its time from the very start that it is about. What started meanwhile is
    asked for together. A containerd that stops is waited for, looking every ``retry`` seconds.
    """
    started: asyncio.Queue[TaskStarted] = asyncio.Queue()
    listening = asyncio.create_task(_listen(containerd, started.put_nowait, retry))
    try:
        while True:
            starts = {await started.get()}
            await asyncio.sleep(pause)
            while not started.empty():
                starts.add(started.get_nowait())
            with contextlib.suppress(ContainerdUnavailable):
                await _tell(containerd, starts, used)
    finally:
        await cancel_all([listening])


async def _listen(containerd: Containerd, heard: Callable[[TaskStarted], None], retry: float) -> None:
    while True:
        with contextlib.suppress(ContainerdUnavailable):
            async for start in containerd.task_starts():
                heard(start)
        await asyncio.sleep(retry)


async def _tell(containerd: Containerd, starts: Iterable[TaskStarted], used: Callable[[Iterable[Path]], None]) -> None:
    for namespace in sorted({start.namespace for start in starts}):
        session = containerd.session(namespace)
        chains = LayerFiles(session.snapshots)
        for start in starts:
            container = await session.container(start.container_id) if start.namespace == namespace else None
            if container is not None and (files := await chains.below(container)):
                used(files)
