"""Blocking work in threads that has ended before its caller continues, also when the caller is cancelled.

A thread cannot be cancelled. If a descriptor is closed while a thread still writes to it, the next file that gets the
same number is damaged; so a cancellation waits for the threads. It must not be used for work that may block for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor


async def in_threads(executor: Executor, *works: Callable[[], object]) -> None:
    """Run all at the same time. Raises the first failure when all have ended."""
    loop = asyncio.get_running_loop()
    futures = [loop.run_in_executor(executor, work) for work in works]
    # Errors are collected, since ``gather`` would return at the first one, with the other threads still at work.
    everything = asyncio.gather(*futures, return_exceptions=True)
    try:
        results = await asyncio.shield(everything)
    except asyncio.CancelledError:
        await everything
        raise
    for result in results:
        if isinstance(result, BaseException):
            raise result
