"""The builds that run, N at a time, by the object that they are for.

A build that has had its turn while others wait is stopped and queues again, at the end: a slow registry takes time from
its own caches, and not from all. It goes on with what it has fetched and made. Keeps the newest progress and the events
of each until the reconciler asks; ``changed`` says that there are some. It must not decide what a failure means.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, nullcontext
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
TURN = 300.0
"""Seconds of a build's first turn; each one after it is twice as long, so that every build comes to its end."""
_LOOK = 1.0
"""Seconds between two looks whether others wait, after the turn."""
Hold = Callable[[str], AbstractContextManager[object]]
"""Keeps what the running build of a bundle has made beyond the end of that build. It blocks."""


def _nothing(bundle_id: str) -> AbstractContextManager[object]:
    del bundle_id
    return nullcontext()


@dataclass
class _Entry:
    build: Build
    task: asyncio.Task[None] | None = None
    events: list[Event] = field(default_factory=list)
    held: ExitStack = field(default_factory=ExitStack)
    """What an earlier turn has made."""


class BuildQueue:
    """``changed`` is called in the event loop with the key whose build has news, often."""

    def __init__(
        self,
        builder: Builder,
        limit: int,
        clock: Clock,
        changed: Callable[[str], None],
        *,
        hold: Hold = _nothing,
        turn: float = TURN,
    ) -> None:
        self._builder = builder
        self._hold = hold
        self._turn = turn
        self._slots = asyncio.Semaphore(limit)
        self._waiting = 0
        """Builds without a slot."""
        self._leaving = 0
        """Builds that give theirs up just now: one for each that waits."""
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
            turn = self._turn
            while not await self._take_turn(entry, credentials, emit, turn, admit):
                turn, admit = 2 * turn, None
        except ImageCacheError as error:
            entry.build = Broken(request, error, credentials.version)
        except Exception as error:  # noqa: BLE001 - a supervisor: one build must not end the others
            _log.exception("a build failed for a reason that is ours", bundle=request.bundle_id)
            entry.build = Broken(request, InternalError(f"the build failed: {type(error).__name__}"))
        else:
            entry.build = Ended(request)
        finally:
            entry.held.close()
        self._changed(key)

    async def _take_turn(
        self,
        entry: _Entry,
        credentials: Credentials,
        emit: Callable[[BuildEvent], None],
        turn: float,
        admit: Callable[[], Awaitable[None]] | None,
    ) -> bool:
        """Wait for a slot, and build in it. False: it was stopped after ``turn`` seconds, for others wait."""
        async with self._slot():
            if admit is not None:
                await admit()
            work = asyncio.ensure_future(self._builder.build(entry.build.request, credentials.secrets, emit))
            try:
                await asyncio.wait({work}, timeout=turn)
                while not work.done() and self._waiting <= self._leaving:
                    await asyncio.wait({work}, timeout=min(turn, _LOOK))
                if not work.done():
                    await self._leave(entry, work)
                if work.cancelled():
                    _log.info("a build goes on later, for others wait", bundle=entry.build.request.bundle_id, turn=turn)
                    return False
                work.result()
            finally:
                await cancel_all([work])
        return True

    async def _leave(self, entry: _Entry, work: asyncio.Future[None]) -> None:
        """Stop the work. What it has made is held before, since its own leases end with it."""
        self._leaving += 1
        try:
            holding = asyncio.ensure_future(asyncio.to_thread(self._hold, entry.build.request.bundle_id))
            try:
                await asyncio.shield(holding)
            finally:  # also when this is stopped meanwhile: what is held must be let go of
                held = await holding
                earlier, entry.held = entry.held, ExitStack()
                entry.held.enter_context(held)
                earlier.close()
            await cancel_all([work])
        finally:
            self._leaving -= 1

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()
