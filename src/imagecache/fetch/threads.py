"""Blocking work in threads, which is finished before anybody goes on, even one who was cancelled.

A thread cannot be cancelled. Whoever closes a descriptor while a thread still writes to its number spoils the next file
that gets that number; so here a cancellation waits. It must not be used for work that may block for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor


async def in_threads(executor: Executor, *works: Callable[[], object]) -> None:
    """Run all at the same time; raises the first failure, when all have ended."""
    loop = asyncio.get_running_loop()
    futures = [loop.run_in_executor(executor, work) for work in works]
    everything = asyncio.gather(*futures, return_exceptions=True)
    try:
        results = await asyncio.shield(everything)
    except asyncio.CancelledError:
        await everything
        raise
    for result in results:
        if isinstance(result, BaseException):
            raise result
