"""Processes forked from one that has loaded all that they need, and nothing else.

To start an interpreter and to load what a build needs takes longer than all else when no layer of an image is new. The
server (``apps.fork_server``) is a program of ours without threads, which never sees an order: what it forks is as empty
as a program that has just started. It is started for the first process, and ends when none was started for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from imagecache.controller import child
from imagecache.controller.fork_messages import MAX_MESSAGE, Ended, Refused, Start, Started, decode_from_server, encode
from imagecache.errors import InternalError

COMMAND = (sys.executable, "-I", "-m", "imagecache.apps.fork_server")
IDLE = 60.0
"""Seconds until a server that starts nothing is ended: it holds some 60 MB."""
ANSWER = 30.0
"""Seconds for an answer of the server, and for its end; it is killed then."""
_UNKNOWN = 1
"""Exit status of a process whose server was gone when it ended."""


class ForkServer:
    """Starts the server when it is needed. ``close`` ends it; what it has started is to have ended by then."""

    def __init__(self, *, idle: float = IDLE, answer: float = ANSWER, command: Sequence[str] = COMMAND) -> None:
        self._idle = idle
        self._answer = answer
        self._command = command
        self._lock = asyncio.Lock()
        self._closed = False
        self._server: _Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    def starter(self, program: str) -> child.Starter:
        """Of processes that run ``program``, a name of ``apps.fork_server``."""
        return _Starter(self, program)

    async def start(self, program: str, stdio: socket.socket) -> child.Process:
        """Raises StarterLost, InternalError, OSError. Not to be cancelled: it ends by itself, in bounded time."""
        async with self._lock:
            if self._closed:
                raise InternalError("the controller ends")
            if self._server is None or self._server.gone:
                await self._end()
                self._server = await _Server.begin(self._command, self._answer)
            self._stay()
            return await self._server.start(program, stdio)

    def _stay(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._idle, self._rest)

    def _rest(self) -> None:
        if self._server is not None and self._server.busy:
            self._stay()
        elif self._server is not None:
            self._server.lose()  # it ends by itself when it is told no more

    async def close(self) -> None:
        async with self._lock:
            self._closed = True
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
    answer: float
    pending: deque[asyncio.Future[_Forked]] = field(default_factory=deque)
    children: dict[int, _Forked] = field(default_factory=dict)
    gone: bool = False

    @classmethod
    async def begin(cls, command: Sequence[str], answer: float) -> _Server:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        server = cls(process, ours, answer)
        asyncio.get_running_loop().add_reader(ours, server.read)
        return server

    @property
    def busy(self) -> bool:
        return bool(self.pending or self.children)

    async def start(self, program: str, stdio: socket.socket) -> _Forked:
        started: asyncio.Future[_Forked] = asyncio.get_running_loop().create_future()
        try:
            socket.send_fds(self.channel, [encode(Start(program))], [stdio.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            self.lose()
            raise child.StarterLost from None
        self.pending.append(started)
        await asyncio.wait({started}, timeout=self.answer)
        if not started.done():  # it is stopped, or the machine stands still
            self.process.kill()
            self.lose()
        return started.result()

    def read(self) -> None:
        """Something has come from the server, or its end."""
        fds: list[int] = []
        try:
            data, fds, _flags, _address = socket.recv_fds(self.channel, MAX_MESSAGE, 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lose()
            return
        match decode_from_server(data):
            case Started(pid):
                self.children[pid] = forked = _Forked(fds[0])
                self.pending.popleft().set_result(forked)
            case Refused(number):
                words = f"no process can be started: {os.strerror(number)}"
                self.pending.popleft().set_exception(InternalError(words, hint="is the limit of processes reached?"))
            case Ended(pid, status):
                self.children.pop(pid).finish(status)

    def lose(self) -> None:
        """The server ends, or has ended. Its processes go on; their pidfds tell when they end, and nobody how."""
        if not self.gone:
            self.gone = True
            asyncio.get_running_loop().remove_reader(self.channel)
            self.channel.close()
        while self.pending:
            self.pending.popleft().set_exception(child.StarterLost())
        while self.children:
            self.children.popitem()[1].watch()

    async def end(self) -> None:
        self.lose()
        ended = asyncio.ensure_future(self.process.wait())
        await asyncio.wait({ended}, timeout=self.answer)
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await ended


class _Forked:
    """``child.Process``."""

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def finish(self, status: int) -> None:
        os.close(self._pidfd)
        self._ended.set_result(status)

    def watch(self) -> None:
        """Nobody else tells when it ends."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self._pidfd)
            self.finish(_UNKNOWN)

        loop.add_reader(self._pidfd, ended)
