"""The parent's side of the worker processes: one per core, one layer each at a time.

Workers are kept between layers (starting an interpreter costs more than a small layer) and killed when a build is
cancelled or a job gets no answer. It must not know what a layer is.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from imagecache.builder.converted import Converted
from imagecache.builder.inflate_threads import cores
from imagecache.builder.worker_messages import (
    MAX_MESSAGE,
    PARALLEL,
    Failed,
    Progress,
    Proven,
    ToWorker,
    decode_from_worker,
    encode,
)
from imagecache.errors import InternalError

_R = TypeVar("_R", Converted, Proven)


class Worker:
    """One process and our end of its socket. ``parallel``: for a job with ``threads``, and for that alone."""

    def __init__(self, *, parallel: bool = False) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._socket = ours
        mode = [PARALLEL] if parallel else []
        with theirs:
            # -I: no PYTHONPATH, no current directory. stderr is the parent's: a crash of the interpreter must be seen.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "imagecache.builder.worker", str(theirs.fileno()), *mode],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, job: ToWorker, fds: Sequence[int]) -> None:
        """Send a job. It cannot block: the worker is idle, so the socket has room."""
        socket.send_fds(self._socket, [encode(job)], list(fds))

    async def send(self, message: ToWorker) -> None:
        """More about the job that the worker has. ``result`` raises when the worker is gone, not this."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await loop.sock_sendall(self._socket, encode(message))

    async def result(self, kind: type[_R], progress: Callable[[int], None]) -> _R:
        """Wait for the end of the job, which is a ``kind``. Raises the worker's error."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._socket, MAX_MESSAGE)
            except ConnectionResetError:  # it ended with messages of ours unread
                data = b""
            if not data:
                raise InternalError(
                    f"a worker process ended during a layer (exit status {self._process.wait()})",
                    hint="it may have been killed for lack of memory (see dmesg); run the same command again",
                )
            message = decode_from_worker(data)
            if isinstance(message, Progress):
                progress(message.consumed)
            elif isinstance(message, Failed):
                raise message.exception()
            elif isinstance(message, kind):
                return message
            else:
                raise InternalError(
                    f"a worker answered {type(message).__name__} to a job that ends with {kind.__name__}"
                )

    def kill(self) -> None:
        """End the process. Closing the socket alone ends it too, but only after its current step."""
        self._socket.close()
        with contextlib.suppress(PermissionError):  # it became nobody, and root without CAP_KILL may not signal it
            self._process.kill()
        self._process.wait()


class WorkerPool:
    """At most ``size`` workers, started when first needed; 0: one per core that this process may use.

    Workers stay until the end. A ``seldom`` used pool ends them whenever none has work: an idle one takes memory of a
    node.
    """

    def __init__(self, size: int = 0, *, seldom: bool = False) -> None:
        self._seldom = seldom
        self._working = 0
        self.size = size or cores()
        self._free = asyncio.Semaphore(self.size)
        self._idle: list[Worker] = []

    async def __aenter__(self) -> Self:
        return self

    def prepare(self) -> None:
        """Start the first worker now: it will be needed, and an interpreter takes a moment."""
        if not (self._idle or self._working):
            self._idle.append(Worker())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_idle()

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop().kill()

    @contextlib.asynccontextmanager
    async def worker(self, *, parallel: bool = False) -> AsyncIterator[Worker]:
        """A worker for one job. It is kept when the job succeeds, and killed otherwise, and when it is ``parallel``."""
        async with self._free:
            worker = self._idle.pop() if self._idle and not parallel else Worker(parallel=parallel)
            self._working += 1
            try:
                yield worker
            except BaseException:
                worker.kill()  # it may be in the middle of the job, or its last answer unread: not usable again
                raise
            else:
                if parallel:
                    worker.kill()
                else:
                    self._idle.append(worker)
            finally:
                self._working -= 1
                if self._seldom and not self._working:
                    self._end_idle()
