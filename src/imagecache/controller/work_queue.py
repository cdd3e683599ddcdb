"""The work queue of a controller: each name is queued once, and never worked on twice at the same time.

Source: client-go ``util/workqueue``, for one event loop. It must not know what the work is.
"""

from __future__ import annotations

import asyncio
from collections import deque


class WorkQueue:
    def __init__(self) -> None:
        self._ready: deque[str] = deque()
        self._waiting: set[str] = set()
        """In ``_ready``."""
        self._taken: set[str] = set()
        self._repeat: set[str] = set()
        """Taken, and added again meanwhile: queued again when the work on it is done."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._filled = asyncio.Event()

    def add(self, name: str, delay: float = 0.0) -> None:
        """Queue it after ``delay`` seconds; when it is planned already, the earlier time counts."""
        if delay > 0:
            self._later(name, delay)
            return
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        if name in self._taken:
            self._repeat.add(name)
        elif name not in self._waiting:
            self._waiting.add(name)
            self._ready.append(name)
            self._filled.set()

    def _later(self, name: str, delay: float) -> None:
        loop = asyncio.get_running_loop()
        planned = self._timers.get(name)
        if name in self._waiting or (planned is not None and planned.when() <= loop.time() + delay):
            return
        if planned is not None:
            planned.cancel()
        self._timers[name] = loop.call_later(delay, self.add, name)

    async def take(self) -> str:
        """The next name; ``done`` must follow."""
        while not self._ready:
            self._filled.clear()
            await self._filled.wait()
        name = self._ready.popleft()
        self._waiting.discard(name)
        self._taken.add(name)
        return name

    def done(self, name: str) -> None:
        self._taken.discard(name)
        if name in self._repeat:
            self._repeat.discard(name)
            self.add(name)

    def forget(self, name: str) -> None:
        """Cancel what is planned for later."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        for name in list(self._timers):
            self.forget(name)
