"""Which connections are open, and which one is closed when there are too many.

A connection may be closed while it is idle, which is while its reader has asked for nothing: during the handshake or
between two requests. Connecting again makes up for the loss. It must not know what a connection does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class OpenConnection:
    """One connection, as the limit knows it."""

    abort: Callable[[], None]
    """Make it end soon, and ``remove`` itself. Called from other threads, never after ``remove``."""


class ConnectionLimit:
    """Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[OpenConnection] = set()
        self._idle: dict[OpenConnection, None] = {}
        """Connections that may be closed, the one that has been idle for longest first."""
        self._aborted: set[OpenConnection] = set()
        """Those of ``_open`` that were aborted."""
        self._closed = False
        self._changed = threading.Condition()

    def add(self, connection: OpenConnection) -> bool:
        """Wait until there are fewer than the limit; close an idle one for that, if there is one. False: closed."""
        with self._changed:
            while not self._closed and len(self._open) >= self._limit:
                # One that was aborted counts until it has ended, so that descriptors and threads stay bounded; but no
                # second one is closed for the same newcomer.
                if self._idle and len(self._open) - len(self._aborted) >= self._limit:
                    oldest = next(iter(self._idle))
                    del self._idle[oldest]
                    self._aborted.add(oldest)
                    oldest.abort()
                self._changed.wait()
            if not self._closed:
                self._open.add(connection)
                self._idle[connection] = None
            return not self._closed

    def mark_busy(self, connection: OpenConnection) -> bool:
        """A request has come. False: the connection was aborted before that, and the request is not answered."""
        with self._changed:
            if connection not in self._idle:
                return False
            del self._idle[connection]
            return True

    def mark_idle(self, connection: OpenConnection) -> None:
        """The request is answered."""
        with self._changed:
            self._idle[connection] = None
            self._changed.notify_all()  # ``add`` may wait for one to close

    def remove(self, connection: OpenConnection) -> None:
        """The connection has ended."""
        with self._changed:
            self._open.discard(connection)
            self._aborted.discard(connection)
            self._idle.pop(connection, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Abort all connections and accept no more."""
        with self._changed:
            self._closed = True
            for connection in self._open:
                connection.abort()
            self._changed.notify_all()
