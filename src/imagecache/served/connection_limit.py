"""Which connections are open, and which one goes when there are too many.

A connection may be sent away while it waits for its reader to ask for something, be that during the handshake or
between two requests: what it lost is made good by connecting again. It must not know what a connection does.
"""

from __future__ import annotations

import threading
from typing import Protocol


class LimitedConnection(Protocol):
    def abort(self) -> None:
        """End soon, and leave. Called from other threads, never after ``leave``."""


class ConnectionLimit:
    """Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._guests: set[LimitedConnection] = set()
        self._waiting: dict[LimitedConnection, None] = {}
        """Those that may be sent away, the one that has waited for longest first."""
        self._leaving: set[LimitedConnection] = set()
        """Sent away, and not gone yet."""
        self._closed = False
        self._changed = threading.Condition()

    def enter(self, guest: LimitedConnection) -> bool:
        """Waits until there is room, and makes some if that is possible. False: closed."""
        with self._changed:
            while not self._closed and len(self._guests) >= self._limit:
                if self._waiting and len(self._guests) - len(self._leaving) >= self._limit:
                    self._send_away(next(iter(self._waiting)))
                self._changed.wait()
            if not self._closed:
                self._guests.add(guest)
                self._waiting[guest] = None
            return not self._closed

    def _send_away(self, guest: LimitedConnection) -> None:
        del self._waiting[guest]
        self._leaving.add(guest)
        guest.abort()

    def works(self, guest: LimitedConnection) -> bool:
        """Its reader has asked for something. False: it has been sent away already."""
        with self._changed:
            if guest not in self._waiting:
                return False
            del self._waiting[guest]
            return True

    def waits(self, guest: LimitedConnection) -> None:
        """For its reader to ask for something."""
        with self._changed:
            self._waiting[guest] = None
            self._changed.notify_all()

    def leave(self, guest: LimitedConnection) -> None:
        with self._changed:
            self._guests.discard(guest)
            self._leaving.discard(guest)
            self._waiting.pop(guest, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody comes in any more, and everybody is sent away."""
        with self._changed:
            self._closed = True
            for guest in self._guests:
                guest.abort()
            self._changed.notify_all()
