"""The process that parses untrusted layers: no files by name, no privilege, no network.

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
from typing import NoReturn, TypeVar

from imagecache.builder.convert import convert
from imagecache.builder.derive import derive
from imagecache.builder.malloc import keep_freed_memory
from imagecache.builder.prove import prove, prove_above
from imagecache.builder.worker_bounds import ParentGone, ProcessorTime, Room, bound_files, window_in
from imagecache.builder.worker_messages import (
    MAX_MESSAGE,
    Arrived,
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
    decode_to_worker,
    encode,
)
from imagecache.erofs.reader import LayerImage
from imagecache.errors import ImageCacheError, InternalError, Interrupted, LimitExceeded
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
_M = TypeVar("_M", Available, Arrived)


def main() -> None:
    """Serve jobs until the other end closes. Arguments: two sockets, bytes of memory (0: no bound)."""
    channel, asking = (socket.socket(fileno=int(word)) for word in sys.argv[1:3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    die_first()
    restrict_process(int(sys.argv[3]) or None)
    become_nobody()
    keep_freed_memory()
    with contextlib.suppress(ConnectionError):  # the parent has ended, and its job with it: no answer is needed
        _serve(channel, asking)


def _serve(channel: socket.socket, asking: socket.socket) -> None:
    while (received := _receive(channel)) is not None:
        message, fds = received
        try:
            answer = _run(channel, asking, message, fds)
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


def _run(channel: socket.socket, asking: socket.socket, message: ToWorker, fds: list[int]) -> FromWorker | None:
    """Do one job; None when the parent closed its end during it."""
    try:
        return _result(channel, asking, message, fds)
    except ParentGone:
        return None
    except MemoryError:
        _SPARE.close()
        words = "the layer takes more memory than the process that reads it may have"
        channel.send(encode(Failed.of(LimitExceeded(words, hint=_MORE_MEMORY))))
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


def _result(channel: socket.socket, asking: socket.socket, message: ToWorker, fds: list[int]) -> FromWorker:
    processor = ProcessorTime(DEFAULT, lambda: _late(channel))
    if isinstance(message, Convert):
        size = message.size
        processor.allow(size)
        bound_files(message.largest)
        return convert(
            _chunks(channel, fds[0], message.size),
            fds[1],
            blob=message.blob,
            diff_id=message.diff_id,
            bottom=message.bottom,
            limits=window_in(int(sys.argv[3]), DEFAULT),
            room=Room(asking, lambda granted: processor.allow(size + granted)).ask,
        )
    if isinstance(message, Derive):
        processor.allow(message.tar_size)
        bound_files(message.largest)
        return derive(
            fds[0],
            tar_size=message.tar_size,
            diff_id=message.diff_id,
            lowers=[LayerImage.from_fd(fd) for fd in fds[1:]],
            bottom=message.bottom,
            limits=DEFAULT,
            room=Room(asking, processor.allow).ask,
        )
    if isinstance(message, Prove):
        processor.allow(0)
        memory = memoryview(mmap.mmap(fds[1], 0, prot=mmap.PROT_READ))
        arriving = _arriving(channel, memory, processor.allow)
        prove(
            fds[0],
            arriving,
            diff_id=message.diff_id,
            tar_size=message.tar_size,
            position=message.position,
            limits=DEFAULT,
        )
        return Proven()
    if isinstance(message, ProveAbove):
        processor.allow(os.fstat(fds[0]).st_size)
        lowers = [LayerImage.from_fd(fd) for fd in fds[1:]]
        prove_above(fds[0], lowers, diff_id=message.diff_id, tar_size=message.tar_size, limits=DEFAULT)
        return Proven()
    raise InternalError(f"a worker received {type(message).__name__} without a job")


def _chunks(channel: socket.socket, fd: int, size: int) -> Iterator[bytes]:
    """Chunks of a file that the parent is still writing; ``Available`` says how far it is."""
    offset = available = 0
    reported = time.monotonic()
    while offset < size:
        if offset == available:
            available = _expect(channel, Available).size
            if available < 0:
                raise Interrupted("the download stopped")
            continue
        chunk = os.pread(fd, min(_CHUNK, available - offset), offset)
        if not chunk:
            raise InternalError("a download is shorter than announced")
        yield chunk
        offset += len(chunk)
        now = time.monotonic()
        if now - reported >= _PROGRESS_INTERVAL:
            reported = now
            channel.send(encode(Progress(offset)))


def _arriving(channel: socket.socket, memory: memoryview, came: Callable[[int], None]) -> Iterator[memoryview]:
    """The arriving pieces; ``came`` gets the bytes so far.

    Asking for the next one tells the parent that the memory of the previous one is free.
    """
    consumed = 0
    while (arrived := _expect(channel, Arrived)).size:
        yield memory[arrived.offset : arrived.offset + arrived.size]
        consumed += arrived.size
        came(consumed)
        channel.send(encode(Progress(consumed)))


def _expect(channel: socket.socket, kind: type[_M]) -> _M:
    received = _receive(channel)
    if received is None:
        raise ParentGone
    message = received[0]
    if not isinstance(message, kind):
        raise InternalError(f"a worker received {type(message).__name__} during a job")
    return message


if __name__ == "__main__":
    main()
