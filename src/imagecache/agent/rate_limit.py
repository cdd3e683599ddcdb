"""When a node may report again: after a pause, and at once when a cache is ready or has failed.

Thousands of nodes write to one API server, so progress waits; that images are usable is what users wait for. On average
there are at most two reports for each pause, whatever happens. It must not know what is reported.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress


class RateLimit:
    """For one event loop."""

    def __init__(self, pause: float) -> None:
        """``pause``: seconds between two reports of what may wait."""
        self._pause = pause
        self._reports = deque([float("-inf")] * 2, maxlen=2)
        """Times of the last two, older first."""

    def reported(self) -> None:
        self._reports.append(asyncio.get_running_loop().time())

    async def wait(self, settled: asyncio.Event) -> None:
        """Wait for the pause, or less once ``settled`` is set and the last report but one is a pause ago."""
        now = asyncio.get_running_loop().time()
        # two reports for each pause at most: this one may be early only if the last but one was a pause ago
        least = min(self._pause, max(0.0, self._reports[0] + self._pause - now))
        await asyncio.sleep(least)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause - least):
                await settled.wait()
