"""A process of ours that gets one order on its stdin, answers in lines, and ends.

It ends when its stdin does, so it does not outlive a controller that is killed. It must not know what is ordered.
"""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Self

from imagecache.errors import InternalError

_LINE = 1 << 20
"""Bytes of one line at most; asyncio's own bound is 64 KiB, which an error about a long path can pass."""
_STOP_SECONDS = 5.0
"""Until a process that should stop is killed; nothing is lost by that, because downloads resume by range."""


@asynccontextmanager
async def ordered(command: Sequence[str], order: bytes, name: str) -> AsyncIterator[Lines]:
    """The lines that the process answers; it has ended when the block is left. ``name`` is for messages."""
    # asyncio (3.11) leaves process and pipes behind when it is cancelled in the middle of a start: that ends first
    start = asyncio.ensure_future(asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=_LINE))
    try:
        process = await asyncio.shield(start)
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        process.stdin.write(order)
        with suppress(ConnectionError):  # it has ended already, and the lines that it wrote say why
            await process.stdin.drain()
        yield Lines(process, name)
    finally:
        await _end(await start)


class Lines:
    """Iterate over them. At their end it raises InternalError: a process says itself when it is done."""

    def __init__(self, process: Process, name: str) -> None:
        self._process = process
        self._name = name

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = await self._process.stdout.readline()
        if not line:
            raise _vanished(await self._process.wait(), self._name)
        return line


async def _end(process: Process) -> None:
    """Closing stdin asks it to stop; it has ended when this returns."""
    if process.stdin is not None:
        process.stdin.close()
    ended = asyncio.ensure_future(process.wait())
    # not asyncio.timeout: in a task that is being cancelled, as here, it does not time out (Python 3.11.2)
    await asyncio.wait({ended}, timeout=_STOP_SECONDS)
    if not ended.done():
        process.kill()
    await ended


def _vanished(code: int, name: str) -> InternalError:
    how = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return InternalError(
        f"the {name} process {how}",
        hint="was it killed for lack of memory? change the ImageCache, or create it again",
    )
