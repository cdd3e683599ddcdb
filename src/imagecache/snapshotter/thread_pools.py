"""Threads for blocking calls, bounded in number and time. It must not know what the calls do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Pool:
    """Threads for one kind of call, each of which may take ``deadline`` seconds."""

    def __init__(self, name: str, threads: int, deadline: float) -> None:
        self.name = name
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._deadline = deadline

    async def run(self, call: Callable[[], Result]) -> Result:
        """Run ``call`` in a thread. Raises TimeoutError; a call that has started runs on, and its result is lost."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        return await asyncio.wait_for(future, self._deadline)

    def start(self, call: Callable[[], object]) -> None:
        """Run ``call``, which must not raise, and do not wait for it. Raises RuntimeError when closed."""
        self._executor.submit(call)

    def close(self) -> None:
        """Does not wait for threads: one may hang in the kernel."""
        self._executor.shutdown(wait=False, cancel_futures=True)
