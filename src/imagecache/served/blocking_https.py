"""HTTPS by blocking calls: TLS decrypts a layer's bytes straight into the memory where they are wanted.

Meant for threads. An event loop's TLS copies every byte five times and allocates as often, which is two thirds of a
node's time for a layer (docs/adr/0017-served-store.md). Connections are kept and reused. It must not retry, and must
not know what is asked for.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

_IDLE = 10.0
"""Seconds after which a connection is not reused: the server may close it just when the request is sent."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    port: int
    name: str
    """In the server's certificate."""
    connect_timeout: float
    read_timeout: float


class _Connection(http.client.HTTPConnection):
    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext) -> None:
        super().__init__(endpoint.host, endpoint.port, timeout=endpoint.connect_timeout)
        self.context = context
        self.used = 0.0
        self.open: socket.socket | None = None
        """While a thread may wait on it; http.client sets ``sock`` to None already while the last response is read."""
        self._endpoint = endpoint

    def connect(self) -> None:
        super().connect()
        secured = self.context.wrap_socket(
            self.sock, server_hostname=self._endpoint.name, do_handshake_on_connect=False
        )
        self.sock = self.open = secured
        secured.do_handshake()
        secured.settimeout(self._endpoint.read_timeout)


@dataclass
class Exchange:
    """One request and its response; ``abort`` ends it from another thread."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _connection: _Connection | None = None
    _aborted: bool = False

    def abort(self) -> None:
        """The thread that waits for the response gets an OSError soon."""
        with self._lock:
            self._aborted = True
            sock = self._connection.open if self._connection is not None else None
            if sock is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown: it drops the TLS object first, while the other thread is using it.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def begin(self, connection: _Connection) -> None:
        """Raises ConnectionAbortedError."""
        with self._lock:
            if self._aborted:
                raise ConnectionAbortedError("the request was cancelled")
            self._connection = connection

    def end(self) -> None:
        with self._lock:
            self._connection = None


class Transport:
    """Requests to one server. Thread-safe."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._idle: list[_Connection] = []
        self._closed = False
        self._lock = threading.Lock()

    def get(
        self,
        exchange: Exchange,
        context: ssl.SSLContext,
        path: str,
        headers: Mapping[str, str],
        receive: Callable[[http.client.HTTPResponse], _T],
    ) -> _T:
        """What ``receive`` makes of the answer to a GET. Raises OSError (SSLError among them), HTTPException."""
        connection, keep = self._take(context), False
        try:
            exchange.begin(connection)
            connection.request("GET", path, headers=dict(headers))
            response = connection.getresponse()
            try:
                return receive(response)
            finally:  # reusable only when the response was read to its end, whether or not ``receive`` raised
                keep = response.isclosed() and not response.length and connection.sock is not None
        finally:
            exchange.end()
            self._put(connection) if keep else connection.close()

    def _take(self, context: ssl.SSLContext) -> _Connection:
        """The connection that was used last, if it is fresh and trusts the same CAs; else a new one."""
        with self._lock:
            now = time.monotonic()
            stale = [each for each in self._idle if each.context is not context or now - each.used > _IDLE]
            self._idle = [each for each in self._idle if each not in stale]
            found = self._idle.pop() if self._idle else None
        for connection in stale:
            connection.close()
        return found or _Connection(self._endpoint, context)

    def _put(self, connection: _Connection) -> None:
        connection.used = time.monotonic()
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Connections in use are closed by the threads that use them."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
