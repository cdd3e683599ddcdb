"""The builds that run, at most so many at a time, by the object that they are for.

Keeps the newest progress and what was told until somebody asks; ``changed`` says that there is something to ask for. It
must not decide what a failure means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from imagecache.api.types import Event
from imagecache.controller.decision import Broken, Build, Running
from imagecache.controller.dependencies import Builder, Job, Progress, Report
from imagecache.errors import ImageCacheError, InternalError
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)


@dataclass
class _Entry:
    build: Build | None
    """None once it ended well: the bundle in the store is the result."""
    task: asyncio.Task[None] | None = None
    told: list[Event] = field(default_factory=list)


class Builds:
    """``changed`` is called in the event loop with the key whose build has news, often."""

    def __init__(self, builder: Builder, limit: int, changed: Callable[[str], None]) -> None:
        self._builder = builder
        self._slots = asyncio.Semaphore(limit)
        self._changed = changed
        self._entries: dict[str, _Entry] = {}

    def start(self, key: str, job: Job) -> None:
        """Begin, or wait for a turn. The key has no build now."""
        entry = _Entry(Running(job.request))
        self._entries[key] = entry
        entry.task = asyncio.create_task(self._run(key, entry, job))

    def state(self, key: str) -> Build | None:
        entry = self._entries.get(key)
        return entry.build if entry else None

    def told(self, key: str) -> tuple[Event, ...]:
        """Events since the last call."""
        entry = self._entries.get(key)
        if entry is None:
            return ()
        told, entry.told = tuple(entry.told), []
        return told

    async def stop(self, key: str) -> None:
        """Stop and forget; returns when its process has ended."""
        entry = self._entries.pop(key, None)
        if entry is not None and entry.task is not None:
            entry.task.cancel()
            await asyncio.gather(entry.task, return_exceptions=True)

    async def close(self) -> None:
        """Stop all; what they fetched is kept."""
        for key in list(self._entries):
            entry = self._entries[key]
            if entry.task is not None:
                entry.task.cancel()
        for key in list(self._entries):
            await self.stop(key)

    @property
    def running(self) -> int:
        """Builds that wait or run."""
        return sum(isinstance(entry.build, Running) for entry in self._entries.values())

    async def _run(self, key: str, entry: _Entry, job: Job) -> None:
        def report(news: Report) -> None:
            if isinstance(news, Progress):
                entry.build = Running(job.request, news.done, news.total)
            else:
                entry.told.append(news)
            self._changed(key)

        try:
            async with self._slots:
                await self._builder.build(job, report)
        except ImageCacheError as error:
            entry.build = Broken(job.request, error)
        except Exception as error:  # noqa: BLE001 - a supervisor: one build must not end the others
            _log.exception("a build failed for a reason that is ours", bundle=job.request.bundle_id)
            entry.build = Broken(job.request, InternalError(f"the build failed: {type(error).__name__}"))
        else:
            entry.build = None
        self._changed(key)
