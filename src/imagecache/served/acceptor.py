"""Connections come in here, and each gets a thread; here is also seen that all of them end.

It must not know what a connection does.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable

from imagecache.errors import StoreError
from imagecache.served.connection import Connection
from imagecache.served.connection_limit import ConnectionLimit
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_BACKLOG = 512
_PAUSE = 1.0
"""Seconds until another connection is accepted when files, memory or threads have run out."""


def listen(host: str, port: int) -> socket.socket:
    """Without a host: at every address, IPv4 and IPv6. Raises StoreError."""
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
        passive = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _type, _protocol, _name, address = passive[0]
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise StoreError(f"cannot listen on {host}:{port}: {error}") from error


class Acceptor:
    """Owns ``listener``. ``connect`` makes what runs over a connection."""

    def __init__(
        self,
        listener: socket.socket,
        tls: ssl.SSLContext,
        room: ConnectionLimit,
        connect: Callable[[ssl.SSLSocket], Connection],
    ) -> None:
        self._listener = listener
        self._tls = tls
        self._room = room
        self._connect = connect
        self._stopping = threading.Event()
        self._numbers = itertools.count(1)
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        """Of connections: those that have not ended, and perhaps some that have."""
        self._thread = threading.Thread(target=self._run, name="served-accept", daemon=True)

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Nothing is accepted any more. The room must be closed then; threads end by themselves."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread; closing would not

    def join(self, seconds: float) -> int:
        """Waits for threads to end; returns how many have not."""
        until = time.monotonic() + seconds
        self._thread.join(seconds)
        threads = [self._thread, *self._threads]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return sum(thread.is_alive() for thread in threads)

    def _run(self) -> None:
        with self._listener:
            while not self._stopping.is_set():
                try:
                    self._welcome(self._listener.accept()[0])
                except Exception as error:  # noqa: BLE001 - whatever it is, this thread must go on
                    if not self._stopping.is_set():
                        _log.warning("cannot accept connections", kind=type(error).__name__, problem=str(error))
                        self._stopping.wait(_PAUSE)

    def _welcome(self, sock: socket.socket) -> None:
        """Waits while there is no room. Raises RuntimeError when there are no more threads."""
        with contextlib.ExitStack() as undo:
            undo.callback(sock.close)
            try:
                secured = self._secure(sock)
            except OSError:  # it was gone before it was here
                return
            undo.callback(secured.close)
            connection = self._connect(secured)
            if not self._room.enter(connection):
                return
            undo.callback(self._room.leave, connection)
            thread = threading.Thread(target=connection.run, name=f"served-{next(self._numbers)}", daemon=True)
            self._threads.add(thread)
            thread.start()
            undo.pop_all()

    def _secure(self, sock: socket.socket) -> ssl.SSLSocket:
        """Without a handshake yet: that waits for the reader."""
        sock.getpeername()  # raises for one that is gone; wrap_socket would raise, too, and forget to close
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else the end of a range waits for an ACK
        return self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
