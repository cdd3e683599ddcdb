"""The builds that run, N at a time, by the object that they are for.

Keeps the newest progress and the events of each until the reconciler asks; ``changed`` says that there are some. It
must not decide what a failure means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from imagecache.api import building
from imagecache.api.building import BuildRequest
from imagecache.api.types import Event
from imagecache.builder.build_events import Advanced, BuildEvent, Planned
from imagecache.clock import Clock
from imagecache.concurrency import cancel_all
from imagecache.controller.decision import Broken, Build, Ended, Running
from imagecache.controller.dependencies import Builder
from imagecache.controller.pull_secrets import Credentials
from imagecache.errors import ImageCacheError, InternalError
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)


@dataclass
class _Entry:
    build: Build
    task: asyncio.Task[None] | None = None
    events: list[Event] = field(default_factory=list)


class BuildQueue:
    """``changed`` is called in the event loop with the key whose build has news, often."""

    def __init__(self, builder: Builder, limit: int, clock: Clock, changed: Callable[[str], None]) -> None:
        self._builder = builder
        self._slots = asyncio.Semaphore(limit)
        self._clock = clock
        self._changed = changed
        self._entries: dict[str, _Entry] = {}

    def start(
        self,
        key: str,
        request: BuildRequest,
        credentials: Credentials,
        admit: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Begin, or wait for a slot. The key has no build now. ``admit`` is asked in the slot, and may raise."""
        entry = _Entry(Running(request))
        self._entries[key] = entry
        entry.task = asyncio.create_task(self._run(key, entry, credentials, admit))

    def state(self, key: str) -> Build | None:
        entry = self._entries.get(key)
        return entry.build if entry else None

    def take_events(self, key: str) -> tuple[Event, ...]:
        """Events since the last call."""
        entry = self._entries.get(key)
        if entry is None:
            return ()
        taken, entry.events = tuple(entry.events), []
        return taken

    async def stop(self, key: str) -> None:
        """Stop and forget; returns when its process has ended."""
        entry = self._entries.pop(key, None)
        if entry is not None and entry.task is not None:
            await cancel_all([entry.task])

    async def close(self) -> None:
        """Stop all; what they fetched is kept."""
        entries, self._entries = self._entries, {}
        await cancel_all(entry.task for entry in entries.values() if entry.task is not None)

    @property
    def running(self) -> int:
        """Builds that wait or run."""
        return sum(isinstance(entry.build, Running) for entry in self._entries.values())

    async def _run(
        self, key: str, entry: _Entry, credentials: Credentials, admit: Callable[[], Awaitable[None]] | None
    ) -> None:
        request = entry.build.request

        def emit(event: BuildEvent) -> None:
            if isinstance(event, Planned | Advanced):
                entry.build = Running(request, event.done, event.total)
            shown = building.status_event(event, self._clock.now())
            if shown is not None:
                entry.events.append(shown)
            self._changed(key)

        try:
            async with self._slots:
                if admit is not None:
                    await admit()
                await self._builder.build(request, credentials.secrets, emit)
        except ImageCacheError as error:
            entry.build = Broken(request, error, credentials.version)
        except Exception as error:  # noqa: BLE001 - a supervisor: one build must not end the others
            _log.exception("a build failed for a reason that is ours", bundle=request.bundle_id)
            entry.build = Broken(request, InternalError(f"the build failed: {type(error).__name__}"))
        else:
            entry.build = Ended(request)
        self._changed(key)
