"""Sizes and times of the server, in one place, because each of its parts takes some. Nothing else belongs here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Sizes in bytes, times in seconds."""

    host: str = ""
    """Empty: every address of the Pod, IPv4 and IPv6; every request needs a token."""
    port: int = 8443
    """0: any free one."""
    connections: int = 1024
    """Open at once, each with a thread; at most half of the files that this process may have open."""
    streams: int = 64
    """Layers being sent at once, each from ``piece`` bytes of memory."""
    early: int = 1
    """Of layers that are still being made: their build needs the processor more than who follows it does."""
    queue: int = 1024
    """Requests that may wait for their turn; more are told to come back (503)."""
    patience: float = 20.0
    """Longest wait for a turn; a reader would give up by itself after 30."""
    piece: int = 256 << 10
    """Read, encrypted and sent at once: it stays in the processor's cache between the three."""
    handshake: float = 10.0
    """A connection that is not encrypted by then is closed."""
    review: float = 15.0
    """Longest wait for what the API server says of a token."""
    head: float = 10.0
    """Time for the head of a request, from its first byte."""
    head_size: int = 16 << 10
    """Largest head of a request."""
    idle: float = 60.0
    """A connection over which nothing is asked for so long is closed."""
    stall: float = 60.0
    """A reader that does not take one piece in so long is gone."""
