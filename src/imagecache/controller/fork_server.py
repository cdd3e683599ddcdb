"""Processes forked from one that has loaded all that they need, and nothing else.

To start an interpreter and to load what a build needs takes longer than all else when no layer of an image is new. The
server (``apps.fork_server``) is a program of ours without threads, which never sees an order: what it forks is as empty
as a program that has just started. It is started for the first process, and ends when none was started for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from imagecache.concurrency import cancel_all
from imagecache.controller import child
from imagecache.controller.fork_messages import (
    MAX_MESSAGE,
    Ended,
    Kill,
    Start,
    Started,
    decode_from_server,
    encode,
)
from imagecache.errors import InternalError

COMMAND = (sys.executable, "-I", "-m", "imagecache.apps.fork_server")
IDLE = 60.0
"""Seconds until a server that starts nothing is ended: it holds some 60 MB."""


class ForkServer:
    """Starts the server when it is needed. ``close`` ends it; what it has started is to have ended by then."""

    def __init__(self, *, idle: float = IDLE, command: Sequence[str] = COMMAND) -> None:
        self._idle = idle
        self._command = command
        self._starting = asyncio.Lock()
        self._server: _Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    def starter(self, program: str) -> child.Starter:
        """Of processes that run ``program``, a name of ``apps.fork_server``."""
        return _Starter(self, program)

    async def start(self, program: str, stdio: socket.socket) -> child.Process:
        """Raises OSError, InternalError."""
        self._stay()
        async with self._starting:
            if self._server is not None and not self._server.gone:
                with contextlib.suppress(InternalError):  # it was killed just now
                    return await self._server.start(program, stdio)
            await self._end()
            self._server = await _Server.begin(self._command)
            return await self._server.start(program, stdio)

    def _stay(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._idle, self._rest)

    def _rest(self) -> None:
        if self._server is not None and self._server.busy:
            self._stay()
        elif self._server is not None:
            self._server.dismiss()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._end()

    async def _end(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.end()


@dataclass(frozen=True, slots=True)
class _Starter:
    server: ForkServer
    program: str

    async def start(self, stdio: socket.socket) -> child.Process:
        return await self.server.start(self.program, stdio)


@dataclass(slots=True)
class _Server:
    """One that runs."""

    process: asyncio.subprocess.Process
    channel: socket.socket
    pending: deque[asyncio.Future[_Forked]] = field(default_factory=deque)
    children: dict[int, _Forked] = field(default_factory=dict)
    reading: asyncio.Task[None] | None = None
    gone: bool = False

    @classmethod
    async def begin(cls, command: Sequence[str]) -> _Server:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
            )
        server = cls(process, ours)
        server.reading = asyncio.create_task(server._read())
        return server

    @property
    def busy(self) -> bool:
        return bool(self.pending or self.children)

    async def start(self, program: str, stdio: socket.socket) -> _Forked:
        started: asyncio.Future[_Forked] = asyncio.get_running_loop().create_future()
        self.pending.append(started)
        try:
            socket.send_fds(self.channel, [encode(Start(program))], [stdio.fileno()])
        except OSError:  # it has ended, and the reader says so
            self._lose()
        return await started

    def kill(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            self.channel.send(encode(Kill(pid)))

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(self.channel, MAX_MESSAGE):
                match decode_from_server(data):
                    case Started(pid):
                        self.children[pid] = forked = _Forked(self, pid, loop.create_future())
                        self.pending.popleft().set_result(forked)
                    case Ended(pid, status):
                        self.children.pop(pid).ended.set_result(status)
        self._lose()

    def _lose(self) -> None:
        """The server has ended. What it has started ends when its stdin does, but nobody learns how."""
        self.gone = True
        while self.pending:
            self.pending.popleft().set_exception(
                InternalError("the process that starts others has ended", hint="another one is started when needed")
            )
        while self.children:
            self.children.popitem()[1].ended.set_result(1)

    def dismiss(self) -> None:
        """It ends by itself when it is told no more."""
        self.gone = True
        self.channel.shutdown(socket.SHUT_WR)

    async def end(self) -> None:
        self.gone = True
        if self.reading is not None:
            await cancel_all([self.reading])
        self.channel.close()
        self._lose()
        await self.process.wait()


@dataclass(frozen=True, slots=True)
class _Forked:
    server: _Server
    pid: int
    ended: asyncio.Future[int]

    async def wait(self) -> int:
        return await asyncio.shield(self.ended)

    def kill(self) -> None:
        if not self.ended.done():
            self.server.kill(self.pid)
