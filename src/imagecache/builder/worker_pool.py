"""The parent's side of the worker processes: one per core, one layer each at a time.

Workers are kept between the layers of one image (starting an interpreter costs more than a small layer), so that what a
layer has made of its worker ends with its image; and they are killed when a build is cancelled or a job gets no answer.
It must not know what a layer is.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from imagecache.builder.converted import Converted
from imagecache.builder.inflate_threads import cores
from imagecache.builder.worker_messages import (
    MAX_MESSAGE,
    NO_SANDBOX,
    PARALLEL,
    ROOM,
    Failed,
    FromWorker,
    More,
    Progress,
    Proven,
    ToWorker,
    Unpacked,
    decode_from_worker,
    encode,
)
from imagecache.errors import ImageCacheError, SandboxUnavailable, WorkerKilled

_R = TypeVar("_R", Converted, Proven)
Grant = Callable[[int], int]
"""From the bytes that a file shall have to those that it may have, at least as many. Raises when there is no room."""
_FDS = 250
"""Descriptors in one message: Linux takes 253 (SCM_MAX_FD), and an image may have more layers."""


class Worker:
    """One process and our ends of its sockets. ``parallel``: for a job with ``threads``, and for that alone."""

    def __init__(self, memory: int = 0, *, parallel: bool = False) -> None:
        """``memory``: bytes of data that it may have; 0: no bound. Call it in an event loop."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        answering, asking = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        answering.setblocking(False)
        self._socket = ours
        self._answering = answering
        self._grant: Grant | None = None
        self._refusal: ImageCacheError | None = None
        self._loop = asyncio.get_running_loop()
        mode = [PARALLEL] if parallel else []
        with theirs, asking:
            passed = [theirs.fileno(), asking.fileno()]
            # -I: no PYTHONPATH, no current directory. stderr is the parent's: a crash of the interpreter must be seen.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "imagecache.builder.worker", *map(str, (*passed, memory)), *mode],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={},  # nothing of the parent's: an environment may hold a proxy's password
            )
        self._loop.add_reader(answering, self._answer)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def start(self, job: ToWorker, fds: Sequence[int], grant: Grant | None = None) -> None:
        """Send a job. It cannot block: the worker is idle, so the socket has room. ``result`` raises when it is gone.

        ``grant`` is asked before the job's file grows. None: the job writes nothing.
        """
        self._grant, self._refusal = grant, None
        *parts, last = (list(fds[start : start + _FDS]) for start in range(0, len(fds), _FDS))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                socket.send_fds(self._socket, [encode(More())], part)
            socket.send_fds(self._socket, [encode(job)], last)

    def _answer(self) -> None:
        """The worker asks for room, and waits. It cannot block: there is one question at a time."""
        try:
            question = self._answering.recv(ROOM.size)
            if len(question) != ROOM.size:  # it has ended
                self._loop.remove_reader(self._answering)
                return
            (wanted,) = ROOM.unpack(question)
            try:
                granted = self._grant(wanted) if self._grant is not None else 0
            except ImageCacheError as error:
                self._refusal, granted = error, 0
            self._answering.send(ROOM.pack(granted))
        except OSError:  # it has ended, and ``result`` says so
            self._loop.remove_reader(self._answering)

    async def send(self, message: ToWorker) -> None:
        """More about the job that the worker has. ``result`` raises when the worker is gone, not this."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await loop.sock_sendall(self._socket, encode(message))

    async def result(
        self, kind: type[_R], progress: Callable[[int], None], unpacked: Callable[[], None] = lambda: None
    ) -> _R:
        """Wait for the end of the job, which is a ``kind``. ``unpacked`` is called for each piece that is.

        Raises the worker's error, what ``grant`` raised, WorkerKilled, SandboxUnavailable.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)  # a worker that says more than it should must not keep everything else from running
            try:
                data = await loop.sock_recv(self._socket, MAX_MESSAGE)
            except ConnectionResetError:  # it ended with messages of ours unread
                data = b""
            if not data:
                raise _killed(self._process.wait())
            message = _decoded(data)
            if isinstance(message, Progress):
                progress(message.consumed)
            elif isinstance(message, Unpacked):
                unpacked()
            elif isinstance(message, Failed):
                raise self._refusal or message.exception()
            elif isinstance(message, kind):
                return message
            else:
                raise _senseless(f"it answered {type(message).__name__} to a job that ends with {kind.__name__}")

    def kill(self) -> None:
        """End the process. Closing the socket alone ends it too, but only after its current step."""
        self._loop.remove_reader(self._answering)
        self._answering.close()
        self._socket.close()
        with contextlib.suppress(PermissionError):  # it became nobody, and root without CAP_KILL may not signal it
            self._process.kill()
        self._process.wait()


def _decoded(data: bytes) -> FromWorker:
    """Raises WorkerKilled."""
    try:
        return decode_from_worker(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _senseless("its answer cannot be read") from None


def _senseless(what: str) -> WorkerKilled:
    return WorkerKilled(
        f"the process that reads a layer makes no sense: {what}",
        hint="it was taken over by the layer that it reads, as a rule: see where that comes from",
    )


def _killed(status: int) -> WorkerKilled | SandboxUnavailable:
    if status == NO_SANDBOX:
        return SandboxUnavailable(
            "the process that reads layers could not give up its rights, so it reads none",
            hint="its log says why; 'imagecache doctor' shows what this host offers (isolation of workers)",
        )
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return WorkerKilled(
        f"the process that reads a layer {how}",
        hint="SIGKILL means that memory ran out, as a rule (see dmesg): if the image is trusted, raise the memory "
        "limit (controller.resources.limits.memory, or agent.resources.limits.memory on nodes)",
    )


class WorkerPool:
    """At most ``size`` workers, started when first needed; 0: one per core that this process may use.

    ``memory``: bytes of data that each may have; 0: no bound.

    Workers stay until the end. A ``seldom`` used pool ends them whenever none has work: an idle one takes memory of a
    node.
    """

    def __init__(self, size: int = 0, *, memory: int = 0, seldom: bool = False) -> None:
        self._memory = memory
        self._seldom = seldom
        self._working = 0
        self.size = size or cores()
        self._free = asyncio.Semaphore(self.size)
        self._idle: list[tuple[str, Worker]] = []
        """With the image that each has read layers of; empty: it has read nothing."""

    async def __aenter__(self) -> Self:
        return self

    def prepare(self) -> None:
        """Start the first worker now: it will be needed, and an interpreter takes a moment."""
        if not (self._idle or self._working):
            self._idle.append(("", Worker(self._memory)))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_idle()

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop()[1].kill()

    @contextlib.asynccontextmanager
    async def worker(self, image: str, *, parallel: bool = False) -> AsyncIterator[Worker]:
        """A worker for one job, that has read layers of this image at most.

        It is kept when the job succeeds, and killed otherwise, and when it is ``parallel``.
        """
        async with self._free:
            worker = Worker(self._memory, parallel=True) if parallel else self._take(image)
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
                    self._idle.append((image, worker))
            finally:
                self._working -= 1
                if self._seldom and not self._working:
                    self._end_idle()

    def _take(self, image: str) -> Worker:
        fit = [each for each in self._idle if each[0] == image] or [each for each in self._idle if not each[0]]
        if fit:
            self._idle.remove(fit[-1])
            return fit[-1][1]
        if self._idle and self._working + len(self._idle) >= self.size:
            self._idle.pop(0)[1].kill()  # of another image
        return Worker(self._memory)
