"""The process that parses untrusted layers: no files by name, no privilege, no network.

``WorkerPool`` starts it with one end of a socket pair. It becomes nobody before it reads the first byte of a layer,
receives jobs with their file descriptors from the socket, and answers with sizes and digests. It must not open a path.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from imagecache.builder.convert import Parallel, ParsedLayer, convert
from imagecache.builder.converted import Converted
from imagecache.builder.derive import derive
from imagecache.builder.garbage import uncollected
from imagecache.builder.growing_file import GrowingFile
from imagecache.builder.inflate_threads import MEMORY, RESERVED
from imagecache.builder.malloc import keep_freed_memory
from imagecache.builder.memory_watch import watch
from imagecache.builder.prove import prove
from imagecache.builder.worker_messages import (
    MAX_MESSAGE,
    PARALLEL,
    Arrived,
    Available,
    Convert,
    Derive,
    Failed,
    FromWorker,
    Progress,
    Prove,
    Proven,
    ToWorker,
    decode_to_worker,
    encode,
)
from imagecache.digest import DiffID
from imagecache.erofs.reader import LayerImage
from imagecache.errors import ImageCacheError, InternalError, Interrupted
from imagecache.layer import parallel_gzip
from imagecache.limits import DEFAULT
from imagecache.oserrors import from_os_error
from imagecache.privileges import become_nobody, restrict_process

_CHUNK = 1 << 20
_MAX_FDS = 512
_PROGRESS_INTERVAL = 0.05
"""Seconds between two messages: smooth for a person who watches, and few."""
_M = TypeVar("_M", Available, Arrived)


def main() -> None:
    """Serve jobs until the other end closes; started with ``PARALLEL``, also those that use several cores."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parallel = PARALLEL in sys.argv[2:]
    restrict_process(RESERVED if parallel else None)
    if parallel:
        parallel_gzip.load()
        watch(MEMORY)
    become_nobody()
    keep_freed_memory()
    with contextlib.suppress(ConnectionError):  # the parent has ended, and its job with it: no answer is needed
        _serve(channel)


def _serve(channel: socket.socket) -> None:
    jobs = _Jobs(channel)
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
    data, fds, _flags, _address = socket.recv_fds(channel, MAX_MESSAGE, _MAX_FDS)
    return (decode_to_worker(data), fds) if data else None


def _run(jobs: _Jobs, message: ToWorker, fds: list[int]) -> FromWorker | None:
    """Do one job; None when the parent closed its end during it."""
    try:
        return jobs.run(message, fds)
    except _ParentGone:
        return None
    except ImageCacheError as error:
        return Failed.of(error)
    except OSError as error:
        return Failed.of(from_os_error(error, "a staged layer image"))


class _Jobs:
    """One job at a time. A layer that waits for those below stays parsed until the next one, which may complete it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._parsed: tuple[_File, ParsedLayer] | None = None

    def run(self, message: ToWorker, fds: list[int]) -> FromWorker:
        if not isinstance(message, Derive):
            self._parsed = None  # first: two trees at once may be more than a process may have
        match message:
            case Convert():
                return self._convert(message, fds)
            case Derive():
                return self._derive(message, fds)
            case Prove():
                memory = memoryview(mmap.mmap(fds[1], 0, prot=mmap.PROT_READ))
                arriving = _arriving(self._channel, memory)
                prove(fds[0], arriving, diff_id=message.diff_id, tar_size=message.tar_size, limits=DEFAULT)
                return Proven()
        raise InternalError(f"a worker received {type(message).__name__} without a job")

    def _convert(self, message: Convert, fds: list[int]) -> Converted:
        growing = GrowingFile(fds[0], message.size)
        parsed = convert(
            _chunks(self._channel, fds[0], growing),
            fds[1],
            blob=message.blob,
            diff_id=message.diff_id,
            bottom=message.bottom,
            limits=replace(DEFAULT, layer_room=message.room),
            parallel=Parallel(growing, message.threads, growing.end) if message.threads else None,
        )
        if not parsed.waits:
            return parsed.finish(fds[1])
        self._parsed = _file(fds[1], message.diff_id), parsed
        return parsed.unfinished()

    def _derive(self, message: Derive, fds: list[int]) -> Converted:
        lowers = [LayerImage.from_fd(fd) for fd in fds[1:]]
        parsed, self._parsed = self._parsed, None
        if parsed is not None and parsed[0] == _file(fds[0], message.diff_id) and not message.bottom:
            return parsed[1].finish(fds[0], lowers)
        del parsed
        return derive(
            fds[0],
            tar_size=message.tar_size,
            diff_id=message.diff_id,
            lowers=lowers,
            bottom=message.bottom,
            limits=DEFAULT,
        )


_File = tuple[int, int, DiffID]
"""Device and inode, and the layer, since the inode may be another file's by now."""


def _file(fd: int, diff_id: DiffID) -> _File:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, diff_id


class _ParentGone(Exception):
    """The build was cancelled: there is nobody to answer."""


def _chunks(channel: socket.socket, fd: int, growing: GrowingFile) -> Iterator[bytes]:
    """Chunks of a file that the parent is still writing; ``Available`` says how far it is."""
    offset = available = 0
    reported = time.monotonic()
    while offset < growing.size:
        if offset == available:
            available = _expect(channel, Available).size
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


def _arriving(channel: socket.socket, memory: memoryview) -> Iterator[memoryview]:
    """The arriving pieces. Asking for the next one tells the parent that the memory of the previous one is free."""
    consumed = 0
    while (arrived := _expect(channel, Arrived)).size:
        yield memory[arrived.offset : arrived.offset + arrived.size]
        consumed += arrived.size
        channel.send(encode(Progress(consumed)))


def _expect(channel: socket.socket, kind: type[_M]) -> _M:
    received = _receive(channel)
    if received is None:
        raise _ParentGone
    message = received[0]
    if not isinstance(message, kind):
        raise InternalError(f"a worker received {type(message).__name__} during a job")
    return message


if __name__ == "__main__":
    main()
