"""The life of a process that another one of ours has started for one order (``controller.child``)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine


async def until_stdin_ends(work: Coroutine[object, object, None]) -> BaseException | None:
    """Run the work until it ends or whoever ordered it is gone: then it is cancelled. Returns what it raised."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()

    def readable() -> None:
        try:
            data = os.read(0, 4096)
        except ConnectionError:  # it has ended with answers unread
            data = b""
        if not data:
            task.cancel()
            loop.remove_reader(0)

    loop.add_reader(0, readable)
    await asyncio.wait({task})
    return None if task.cancelled() else task.exception()
