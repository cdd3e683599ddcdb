"""The process that parses untrusted layers: no files by name, no privilege, no network, and no way to get any.

``WorkerPool`` starts it with its ends of two socket pairs. It becomes nobody before it reads the first byte of a layer,
receives jobs with their file descriptors from the first one, and answers with sizes and digests; over the second one it
asks before it writes. What it takes of the machine is bounded, and it is the first to end when memory runs out. It must
not open a path.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from imagecache import sandbox
from imagecache.builder.convert import Parallel, ParsedLayer, convert
from imagecache.builder.converted import Converted
from imagecache.builder.derive import derive
from imagecache.builder.garbage import uncollected
from imagecache.builder.growing_file import GrowingFile
from imagecache.builder.inflate_threads import MEMORY, RESERVED
from imagecache.builder.malloc import keep_freed_memory
from imagecache.builder.memory_watch import open_watch, watch
from imagecache.builder.prove import prove, prove_above
from imagecache.builder.worker_bounds import ParentGone, ProcessorTime, Room, bound_files, window_in
from imagecache.builder.worker_messages import (
    MAX_MESSAGE,
    NO_SANDBOX,
    PARALLEL,
    Arrived,
    ArrivedPacked,
    Available,
    Convert,
    Derive,
    Failed,
    FromWorker,
    More,
    Progress,
    Prove,
    ProveAbove,
    Proven,
    ToWorker,
    Unpack,
    Unpacked,
    decode_to_worker,
    encode,
)
from imagecache.digest import DiffID
from imagecache.erofs.reader import LayerImage
from imagecache.errors import ImageCacheError, InternalError, Interrupted, LimitExceeded
from imagecache.layer import frames, parallel_gzip
from imagecache.limits import DEFAULT
from imagecache.oserrors import from_os_error
from imagecache.privileges import become_nobody, die_first, restrict_process

_CHUNK = 1 << 20
_MAX_FDS = 512
_PROGRESS_INTERVAL = 0.05
"""Seconds between two messages: smooth for a person who watches, and few."""
_MORE_MEMORY = (
    "if the image is trusted, raise the memory limit of what reads it: controller.resources.limits.memory, or "
    "agent.resources.limits.memory on nodes; fewer jobs get more each"
)
_SPARE = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
"""Of the process's memory, never touched: given back when there is none left, to say so."""


def main() -> None:
    """Serve jobs until the other end closes.

    Arguments: two sockets, bytes of memory (0: no bound), and ``PARALLEL`` for a job that uses several cores.
    """
    channel, asking = (socket.socket(fileno=int(word)) for word in sys.argv[1:3])
    memory, parallel = int(sys.argv[3]), PARALLEL in sys.argv[4:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    die_first()
    restrict_process(RESERVED if parallel else memory or None)
    if parallel:
        parallel_gzip.load()
    watched = open_watch()
    become_nobody()
    keep_freed_memory()
    try:
        sandbox.enter()
    except OSError as error:
        sys.stderr.write(f"imagecache: no layer is read here, since {error.strerror}: {error}\n")
        sys.exit(NO_SANDBOX)
    if parallel:  # its allocator reserves more than it uses: what it uses is watched
        watch(watched, min(MEMORY, memory or MEMORY))
    with contextlib.suppress(ConnectionError):  # the parent has ended, and its job with it: no answer is needed
        _serve(channel, asking, memory)


def _serve(channel: socket.socket, asking: socket.socket, memory: int) -> None:
    jobs = _Jobs(channel, asking, memory)
    while (received := _receive(channel)) is not None:
        message, fds = received
        try:
            with uncollected():
                answer = _run(jobs, message, fds)
        finally:
            for fd in fds:
                os.close(fd)
        if answer is None:
            return
        channel.send(encode(answer))


def _receive(channel: socket.socket) -> tuple[ToWorker, list[int]] | None:
    received: list[int] = []
    while True:
        data, fds, _flags, _address = socket.recv_fds(channel, MAX_MESSAGE, _MAX_FDS)
        received += fds
        if not data:
            return None
        message = decode_to_worker(data)
        if not isinstance(message, More):
            return message, received


def _run(jobs: _Jobs, message: ToWorker, fds: list[int]) -> FromWorker | None:
    """Do one job; None when the parent closed its end during it."""
    try:
        return jobs.run(message, fds)
    except ParentGone:
        return None
    except MemoryError:
        _SPARE.close()
        words = "the layer takes more memory than the process that reads it may have"
        jobs.channel.send(encode(Failed.of(LimitExceeded(words, hint=_MORE_MEMORY))))
        os._exit(0)  # threads that had no memory to end are still there
    except ImageCacheError as error:
        return Failed.of(error)
    except OSError as error:
        return Failed.of(from_os_error(error, "a staged layer image"))


def _late(channel: socket.socket) -> NoReturn:
    error = LimitExceeded(
        f"the layer takes more processor time than worker_time, {DEFAULT.worker_time:g} s, and its size allow",
        hint="no image that a builder made takes so long; check where it comes from",
    )
    channel.send(encode(Failed.of(error)))
    os._exit(0)


class _Jobs:
    """One job at a time. A layer that waits for those below stays parsed until the next one, which may complete it."""

    def __init__(self, channel: socket.socket, asking: socket.socket, memory: int) -> None:
        self.channel = channel
        self._asking = asking
        self._memory = memory
        self._parsed: tuple[_File, ParsedLayer] | None = None

    def run(self, message: ToWorker, fds: list[int]) -> FromWorker:
        if not isinstance(message, Derive):
            self._parsed = None  # first: two trees at once may be more than a process may have
        processor = ProcessorTime(DEFAULT, lambda: _late(self.channel))
        match message:
            case Convert():
                return self._convert(message, fds, processor)
            case Derive():
                return self._derive(message, fds, processor)
            case Prove():
                processor.allow(0)
                prove(
                    fds[0],
                    _arriving(self.channel, _Memory(*fds[1:]), processor.allow),
                    diff_id=message.diff_id,
                    tar_size=message.tar_size,
                    position=message.position,
                    limits=DEFAULT,
                )
                return Proven()
            case ProveAbove():
                processor.allow(os.fstat(fds[0]).st_size)
                lowers = [LayerImage.from_fd(fd) for fd in fds[1:]]
                prove_above(fds[0], lowers, diff_id=message.diff_id, tar_size=message.tar_size, limits=DEFAULT)
                return Proven()
            case Unpack():
                processor.allow(0)
                for _piece in _arriving(self.channel, _Memory(*fds), processor.allow):
                    pass
                return Proven()
        raise InternalError(f"a worker received {type(message).__name__} without a job")

    def _convert(self, message: Convert, fds: list[int], processor: ProcessorTime) -> Converted:
        size = message.size
        processor.allow(size)
        bound_files(message.largest)
        growing = GrowingFile(fds[0], size)
        room = Room(self._asking, lambda granted: processor.allow(size + granted)).ask
        parsed = convert(
            _chunks(self.channel, fds[0], growing),
            fds[1],
            blob=message.blob,
            diff_id=message.diff_id,
            bottom=message.bottom,
            limits=window_in(self._memory, DEFAULT),
            parallel=Parallel(growing, message.threads, growing.end) if message.threads else None,
            room=room,
        )
        if not parsed.waits:
            return parsed.finish(fds[1], room=room)
        self._parsed = _file(fds[1], message.diff_id), parsed
        return parsed.unfinished()

    def _derive(self, message: Derive, fds: list[int], processor: ProcessorTime) -> Converted:
        processor.allow(message.tar_size)
        bound_files(message.largest)
        room = Room(self._asking, processor.allow).ask
        lowers = [LayerImage.from_fd(fd) for fd in fds[1:]]
        parsed, self._parsed = self._parsed, None
        if parsed is not None and parsed[0] == _file(fds[0], message.diff_id) and not message.bottom:
            return parsed[1].finish(fds[0], lowers, room=room)
        del parsed
        return derive(
            fds[0],
            tar_size=message.tar_size,
            diff_id=message.diff_id,
            lowers=lowers,
            bottom=message.bottom,
            limits=DEFAULT,
            room=room,
        )


_File = tuple[int, int, DiffID]
"""Device and inode, and the layer, since the inode may be another file's by now."""


def _file(fd: int, diff_id: DiffID) -> _File:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, diff_id


def _chunks(channel: socket.socket, fd: int, growing: GrowingFile) -> Iterator[bytes]:
    """Chunks of a file that the parent is still writing; ``Available`` says how far it is."""
    offset = available = 0
    reported = time.monotonic()
    while offset < growing.size:
        if offset == available:
            available = _available(channel).size
            if available < 0:
                raise Interrupted("the download stopped")
            continue
        chunk = os.pread(fd, min(_CHUNK, available - offset), offset)
        if not chunk:
            raise InternalError("a download is shorter than announced")
        growing.grow(offset + len(chunk))
        yield chunk
        offset += len(chunk)
        now = time.monotonic()
        if now - reported >= _PROGRESS_INTERVAL:
            reported = now
            channel.send(encode(Progress(offset)))


class _Memory:
    """That pieces arrive in, and are unpacked into."""

    def __init__(self, arriving: int, unpacked: int | None = None) -> None:
        """Descriptors."""
        self._arriving = memoryview(mmap.mmap(arriving, 0, prot=mmap.PROT_READ))
        self._unpacked = memoryview(b"") if unpacked is None else memoryview(mmap.mmap(unpacked, 0))

    def piece(self, arrived: Arrived | ArrivedPacked) -> memoryview:
        """Raises StoreCorrupt."""
        piece = self._arriving[arrived.offset : arrived.offset + arrived.size]
        if isinstance(arrived, Arrived):
            return piece
        unpacked = self._unpacked[: arrived.length]
        frames.unpack(piece, unpacked)
        return unpacked


def _arriving(channel: socket.socket, memory: _Memory, came: Callable[[int], None]) -> Iterator[memoryview]:
    """The arriving pieces; ``came`` gets the bytes so far.

    Asking for the next one tells the parent that the memory of the previous one is free.
    """
    consumed = length = 0
    while (arrived := _arrived(channel)).size:
        piece = memory.piece(arrived)
        if isinstance(arrived, ArrivedPacked):
            channel.send(encode(Unpacked()))
        yield piece
        consumed, length = consumed + arrived.size, length + len(piece)
        came(length)
        channel.send(encode(Progress(consumed)))


def _arrived(channel: socket.socket) -> Arrived | ArrivedPacked:
    message = _more(channel)
    return message if isinstance(message, Arrived | ArrivedPacked) else _unexpected(message)


def _available(channel: socket.socket) -> Available:
    message = _more(channel)
    return message if isinstance(message, Available) else _unexpected(message)


def _more(channel: socket.socket) -> ToWorker:
    received = _receive(channel)
    if received is None:
        raise ParentGone
    return received[0]


def _unexpected(message: ToWorker) -> NoReturn:
    raise InternalError(f"a worker received {type(message).__name__} during a job")


if __name__ == "__main__":
    main()
