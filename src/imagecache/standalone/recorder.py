"""Keeps an object's file up to date while it is being built, at a bounded rate.

Build events come in thousands; the file is written by a thread, at most every ``interval`` seconds, so that a build
never waits for its disk and ``imagecache get -w`` sees the progress. It must not decide how a build ends.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec

from imagecache.api import building, events, phases
from imagecache.api.types import Event, ImageCache, Status
from imagecache.builder.build_events import Advanced, BuildEvent, Planned
from imagecache.clock import Clock
from imagecache.errors import ImageCacheError
from imagecache.standalone.objects import ObjectFiles

INTERVAL = 0.2
"""Seconds between two writes."""


class Recorder:
    """One object, whose lock the caller holds, as a context. After it the file is as ``cache`` is."""

    def __init__(self, objects: ObjectFiles, cache: ImageCache, clock: Clock, interval: float = INTERVAL) -> None:
        if cache.status is None:
            raise ValueError("an object whose build starts has a status")
        self._objects = objects
        self._cache = cache
        self._status = cache.status
        self._clock = clock
        self._interval = interval
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    @property
    def cache(self) -> ImageCache:
        return self._cache.with_status(self._status)

    @property
    def status(self) -> Status:
        return self._status

    def set(self, status: Status) -> None:
        """The status from here on; written soon."""
        self._status = status
        self._changed.set()

    def event(self, reason: str, message: str, *, about: str = "", kind: str = events.NORMAL) -> None:
        """Add to ``status.events``."""
        new = events.event(reason, message, about=about or self._cache.name, now=self._clock.now(), kind=kind)
        self.set(with_event(self._status, new))

    def on(self, event: BuildEvent) -> None:
        """Take in what the build tells."""
        match event:
            case Planned(done=done, total=total) | Advanced(done=done, total=total):
                self.set(phases.advance(self._status, done, total, self._clock.now()))
            case _:
                new = building.status_event(event, self._clock.now())
                if new is not None:
                    self.set(with_event(self._status, new))

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._changed.set()
        if self._writer is not None:
            await asyncio.wait({self._writer})
        self._objects.put(self.cache)

    async def _write(self) -> None:
        while not self._stopping.is_set():
            await self._changed.wait()
            self._changed.clear()
            with suppress(ImageCacheError):  # the next write may go well, and the last one says itself that it does not
                await asyncio.to_thread(self._objects.put, self.cache)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._interval)


def with_event(status: Status, new: Event) -> Status:
    """The status with one event more."""
    return msgspec.structs.replace(status, events=events.append(status.events, new))
