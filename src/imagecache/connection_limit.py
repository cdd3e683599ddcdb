"""Which connections are open, and which one is closed when there are too many.

A connection may be closed while it is idle, which is while its reader has asked for nothing: during the handshake or
between two requests. Connecting again makes up for the loss. So whoever opens connections without end, and asks for
nothing, takes neither descriptors nor the listener from others. ``ConnectionLimit`` is for servers with a thread for
each connection, ``LoopConnections`` for those in an event loop. It must not know what a connection does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True, eq=False)
class OpenConnection:
    """One connection, as the limit knows it."""

    abort: Callable[[], None]
    """Make it end soon, and ``remove`` itself. Never called after ``remove``; by ``ConnectionLimit`` from other
    threads."""
    is_idle: Callable[[], bool] = _always
    """Asked by ``LoopConnections``."""


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


class LoopConnections:
    """The same in an event loop, where nobody can wait: every connection is accepted by then."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[OpenConnection, None] = {}
        """The one that was used least recently first."""

    def add(self, connection: OpenConnection) -> bool:
        """Close the connection that has been idle for longest, if there are too many. False: none is, close this one.

        One that was aborted does not count any longer: its descriptor is closed before the next one is accepted.
        """
        if len(self._open) >= self._limit:
            oldest = next((each for each in self._open if each.is_idle()), None)
            if oldest is None:
                return False
            del self._open[oldest]
            oldest.abort()
        self._open[connection] = None
        return True

    def used(self, connection: OpenConnection) -> None:
        """Something has come over it."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def remove(self, connection: OpenConnection) -> None:
        """The connection has ended. Idempotent."""
        self._open.pop(connection, None)
