"""Threads for blocking calls, bounded in number and time. It must not know what the calls do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Pool:
    """Threads for one kind of call, and the seconds that one may take."""

    def __init__(self, name: str, threads: int, deadline: float) -> None:
        self.name = name
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._deadline = deadline

    async def run(self, call: Callable[[], Result]) -> Result:
        """Run ``call`` in a thread. Raises TimeoutError; a call that has begun then goes on and nobody hears of it."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        return await asyncio.wait_for(future, self._deadline)

    def start(self, call: Callable[[], object]) -> None:
        """Run ``call``, which does not raise, in a thread some time. Raises RuntimeError when closed."""
        self._executor.submit(call)

    def close(self) -> None:
        """Without waiting: a thread may hang in the kernel."""
        self._executor.shutdown(wait=False, cancel_futures=True)
