"""Accepts connections, starts a thread for each, and sees to it that all of them end.

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

from imagecache.connection_limit import ConnectionLimit
from imagecache.errors import StoreError
from imagecache.served.server_connection import ServerConnection
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_BACKLOG = 512
"""Connections that wait for accept(2): after a restart of the server all nodes connect at the same moment."""
_PAUSE = 1.0
"""Seconds until the next try when files, memory or threads have run out: at once would be a busy loop."""


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
        limit: ConnectionLimit,
        connect: Callable[[ssl.SSLSocket], ServerConnection],
    ) -> None:
        self._listener = listener
        self._tls = tls
        self._limit = limit
        self._connect = connect
        self._stopping = threading.Event()
        self._numbers = itertools.count(1)
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        """Of connections: all that run, and perhaps some that have ended."""
        self._thread = threading.Thread(target=self._run, name="served-accept", daemon=True)

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Accept no more. Close the limit after this: that ends the threads of connections."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept(2); close(2) would not

    def join(self, seconds: float) -> int:
        """Wait for all threads to end; returns how many have not."""
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
                    self._start_connection(self._listener.accept()[0])
                except Exception as error:  # noqa: BLE001 - without this thread nothing is served any longer
                    if not self._stopping.is_set():
                        _log.warning("cannot accept connections", kind=type(error).__name__, problem=str(error))
                        self._stopping.wait(_PAUSE)

    def _start_connection(self, sock: socket.socket) -> None:
        """Waits while there are too many. Raises RuntimeError when no thread can be started."""
        with contextlib.ExitStack() as undo:
            undo.callback(sock.close)
            try:
                sock.getpeername()  # raises for a peer that has gone; wrap_socket raises too, and forgets to close
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else the end of a range waits for an ACK
                # No handshake yet: it waits for the reader, and this thread must not.
                secured = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            except OSError:  # the peer has gone already
                return
            undo.callback(secured.close)
            connection = self._connect(secured)
            if not self._limit.add(connection.entry):
                return
            undo.callback(self._limit.remove, connection.entry)
            thread = threading.Thread(target=connection.run, name=f"served-{next(self._numbers)}", daemon=True)
            self._threads.add(thread)
            thread.start()
            undo.pop_all()  # the thread closes its socket and leaves the limit
