"""What a worker may take of its machine for one layer: processor time, bytes of its file.

Bounds of the kernel behind those of ``limits``: a fault in a bound, or in a library, costs one worker and not the node.
Memory is bounded for the whole process, by its parent. Source: setrlimit(2). It must not know what a layer is.
"""

from __future__ import annotations

import math
import resource
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from imagecache.builder.worker_messages import ROOM
from imagecache.errors import Interrupted
from imagecache.limits import MIB, Limits

_INFINITY = resource.RLIM_INFINITY
_LEAST_WINDOW = 8 * MIB
"""Every decoder should take it (RFC 8878 section 3.1.1.1.2)."""
_BESIDE = 192 * MIB
"""Of the interpreter, its queues and an ordinary layer's tree."""


class ParentGone(Exception):
    """The build was cancelled: there is nobody to answer."""


class ProcessorTime:
    """Of one job: more for more bytes of the layer, as they come.

    ``late`` is called in the main thread when it is used up, and does not return: a thread that hangs in a library, or
    waits for the parent, could not be joined. Threads must block SIGXCPU, or it may not come to the main thread.
    """

    def __init__(self, limits: Limits, late: Callable[[], NoReturn]) -> None:
        self._limits = limits
        self._start = time.process_time()
        signal.signal(signal.SIGXCPU, lambda _number, _frame: late())

    def allow(self, size: int) -> None:
        """The job is about ``size`` bytes."""
        seconds = self._start + self._limits.worker_time + size / self._limits.worker_rate
        _set(resource.RLIMIT_CPU, math.ceil(seconds))


def window_in(memory: int, limits: Limits) -> Limits:
    """With a bound on windows of zstd that fits this process's ``memory`` (0: no bound).

    The library says only that it could not allocate one, which nobody can tell from a stream that is broken.
    """
    window = min(limits.zstd_window, max(_LEAST_WINDOW, memory - _BESIDE)) if memory else limits.zstd_window
    return replace(limits, zstd_window=window)


def bound_files(largest: int) -> None:
    """No file grows beyond so many bytes: write(2) fails with EFBIG. 0: no bound."""
    _set(resource.RLIMIT_FSIZE, largest or _INFINITY)


def _set(kind: int, soft: int) -> None:
    """The soft limit, which the next job may raise again."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (soft if hard == _INFINITY else min(soft, hard) if soft != _INFINITY else hard, hard))


class Room:
    """Asks the parent before the file of one job grows. One thread at a time."""

    def __init__(self, channel: socket.socket, granted: Callable[[int], None]) -> None:
        """``granted`` is called with each size that the file may have."""
        self._channel = channel
        self._granted = 0
        self._told = granted

    def ask(self, size: int) -> None:
        """The file shall have ``size`` bytes. Raises Interrupted when there is no room: the parent knows why."""
        if size <= self._granted:
            return
        self._channel.send(ROOM.pack(size))
        answer = self._channel.recv(ROOM.size)
        if not answer:
            raise ParentGone
        (granted,) = ROOM.unpack(answer)
        if granted < size:
            raise Interrupted("there is no room for the layer image")
        self._granted = granted
        self._told(granted)
