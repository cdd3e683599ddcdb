"""The fork server of a controller (``controller.fork_server``): ``python -I -m imagecache.apps.fork_server FD``.

It has loaded what its programs need, and forks one for each order that it is given a socket for. It never reads from
such a socket, so that no process has seen another one's order. It has no threads, because fork(2) takes one along. It
ends when the controller closes its end.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from imagecache.apps import build_process, tag_process
from imagecache.controller.fork_messages import (
    MAX_MESSAGE,
    Ended,
    FromServer,
    Refused,
    Started,
    decode_start,
    encode,
)

PROGRAMS: Mapping[str, Callable[[], None]] = {"build": build_process.main, "tags": tag_process.main}


class Server:
    """Forks for ``channel``, until its other end is closed."""

    def __init__(self, channel: socket.socket, programs: Mapping[str, Callable[[], None]]) -> None:
        self._channel = channel
        self._programs = programs
        self._children: set[int] = set()

    def run(self) -> None:
        gc.freeze()  # else the collector of each child would write to, and so copy, what they share
        signal.signal(signal.SIGCHLD, lambda *_: self._reap())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the controller's to handle
        while True:
            data, fds, _flags, _address = socket.recv_fds(self._channel, MAX_MESSAGE, 1)
            if not data:
                return
            self._start(decode_start(data).program, fds[0])

    def _start(self, program: str, stdio: int) -> None:
        with _unreaped():  # its end must not be told before its beginning
            try:
                pid = os.fork()
            except OSError as error:
                self._send(Refused(error.errno or 0))
            else:
                if pid == 0:
                    self._become(program, stdio)
                self._children.add(pid)
                pidfd = os.pidfd_open(pid)
                self._send(Started(pid), [pidfd])
                os.close(pidfd)
        os.close(stdio)

    def _become(self, program: str, stdio: int) -> None:
        """The rest of the new process's life."""
        status = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            self._channel.close()
            for fd in (0, 1):
                os.dup2(stdio, fd)
            os.close(stdio)
            self._programs[program]()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - a process of its own: nothing of it may go on in the server's name
            traceback.print_exc()
        finally:
            with suppress(OSError):
                sys.stdout.flush()
            os._exit(status)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._children.discard(pid)
            self._send(Ended(pid, os.waitstatus_to_exitcode(status)))

    def _send(self, message: FromServer, fds: Sequence[int] = ()) -> None:
        with suppress(ConnectionError):  # the controller has ended, and the next receive says so
            socket.send_fds(self._channel, [encode(message)], list(fds))


@contextmanager
def _unreaped() -> Iterator[None]:
    """Processes that end meanwhile are reaped afterwards."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def main(programs: Mapping[str, Callable[[], None]] = PROGRAMS) -> None:
    Server(socket.socket(fileno=int(sys.argv[1])), programs).run()


if __name__ == "__main__":
    main()
