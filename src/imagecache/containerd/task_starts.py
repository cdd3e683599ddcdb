"""Starts of containers, followed through restarts of containerd. What starts while it does not listen is missed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from imagecache.containerd.api import Containerd, TaskStarted
from imagecache.errors import HostError


async def follow(containerd: Containerd, heard: Callable[[TaskStarted], None], *, retry: float) -> None:
    """Call ``heard`` with every start, of all namespaces, until cancelled.

    When the stream of events has ended, it is opened again after ``retry`` seconds.
    """
    while True:
        with contextlib.suppress(HostError):
            async for start in containerd.task_starts():
                heard(start)
        await asyncio.sleep(retry)
