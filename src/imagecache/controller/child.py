"""A process of ours that gets one order on its stdin, answers in lines, and ends.

It ends when its stdin does, so it does not outlive a controller that is killed. It must not know what is ordered.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, Self

from imagecache.errors import InternalError

_LINE = 1 << 20
"""Bytes of one line at most; asyncio's own bound is 64 KiB, which an error about a long path can pass."""
PATIENCE = 5.0
"""Seconds until a process that should stop is killed; nothing is lost by that, because downloads resume by range."""


class Process(Protocol):
    """One that was started."""

    async def wait(self) -> int:
        """Its exit status once it has ended, or the negative number of the signal that has ended it."""

    def kill(self) -> None:
        """With SIGKILL. Nothing happens when it has ended."""


class Starter(Protocol):
    """Starts processes of one kind."""

    async def start(self, stdio: socket.socket) -> Process:
        """One whose stdin and stdout are ``stdio``. Raises OSError, InternalError."""


@dataclass(frozen=True, slots=True)
class Command:
    """Starts a program."""

    argv: Sequence[str]

    @classmethod
    def of_module(cls, module: str) -> Self:
        return cls((sys.executable, "-I", "-m", module))

    async def start(self, stdio: socket.socket) -> Process:
        return _Program(await asyncio.create_subprocess_exec(*self.argv, stdin=stdio.fileno(), stdout=stdio.fileno()))


@dataclass(frozen=True, slots=True)
class _Program:
    process: asyncio.subprocess.Process

    async def wait(self) -> int:
        return await self.process.wait()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()


class StarterLost(InternalError):
    """What starts processes has ended just now; another socket may be given to its successor."""

    def __init__(self) -> None:
        super().__init__("the process that starts others has ended", hint="another one is started when needed")


@asynccontextmanager
async def ordered(starter: Starter, order: bytes, name: str, *, patience: float = PATIENCE) -> AsyncIterator[Lines]:
    """The lines that the process answers; it has ended when the block is left. ``name`` is for messages."""
    process, ours = await _started(starter)
    writer: asyncio.StreamWriter | None = None
    try:
        reader, writer = await asyncio.open_connection(sock=ours, limit=_LINE)
        writer.write(order)
        with suppress(ConnectionError):  # it has ended already, and the lines that it wrote say why
            await writer.drain()
        yield Lines(reader, process, name)
    finally:
        # one of the two: a transport that has something to write still watches the socket
        ours.close() if writer is None else writer.transport.abort()
        await _end(process, patience)


async def _started(starter: Starter) -> tuple[Process, socket.socket]:
    """A process, and our end of its stdin and stdout."""
    for last in (False, True):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        start = asyncio.ensure_future(starter.start(theirs))
        try:
            await _finished(start)
            return start.result(), ours
        except BaseException as error:
            ours.close()  # with it ends what has read nothing yet
            if not start.cancelled() and start.exception() is None:
                await _end(start.result())
            # a second socket for the second try: two processes must not read one order
            if last or not isinstance(error, StarterLost):
                raise
        finally:
            theirs.close()
    raise AssertionError  # the last try returns or raises


async def _finished(task: asyncio.Future[Process]) -> None:
    """Wait until it has ended, also when cancelled: a start in its middle leaves a process behind (Python 3.11)."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


class Lines:
    """Iterate over them. At their end it raises InternalError: a process says itself when it is done."""

    def __init__(self, reader: asyncio.StreamReader, process: Process, name: str) -> None:
        self._reader = reader
        self._process = process
        self._name = name

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        line = b""
        with suppress(ConnectionError):  # it has ended without reading all of its order
            line = await self._reader.readline()
        if not line:
            raise _vanished(await self._process.wait(), self._name)
        return line


async def _end(process: Process, patience: float = PATIENCE) -> None:
    """Its stdin is closed, which asks it to stop; it has ended when this returns."""
    ended = asyncio.ensure_future(process.wait())
    # not asyncio.timeout: in a task that is being cancelled, as here, it does not time out (Python 3.11.2)
    await asyncio.wait({ended}, timeout=patience)
    if not ended.done():
        process.kill()
    await ended


def _vanished(code: int, name: str) -> InternalError:
    how = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return InternalError(
        f"the {name} process {how}",
        hint="was it killed for lack of memory? change the ImageCache, or create it again",
    )
