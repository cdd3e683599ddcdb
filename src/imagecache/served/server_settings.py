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
    """Open at a time, each with a thread; at most half of the files that this process may have open."""
    streams: int = 64
    """Finished layers being sent at a time, each from ``buffer_size`` bytes of memory."""
    partial_streams: int = 1
    """Partial layers being sent at a time: their build needs the processor more than the nodes that prefetch it do."""
    packers: int = 1
    """Blocks being compressed at a time, each by a thread with some 12 MiB of memory."""
    queue_capacity: int = 1024
    """Requests that may wait for a stream; more get 503."""
    queue_timeout: float = 20.0
    """Longest wait for a stream; a reader stops waiting after 30 (``ClientSettings.read_timeout``)."""
    buffer_size: int = 256 << 10
    """Read, encrypted and sent in one go: it stays in the processor's cache between the three."""
    handshake_timeout: float = 10.0
    """A connection that is not encrypted by then is closed."""
    review_timeout: float = 15.0
    """Longest wait for the API server's review of a token."""
    head_timeout: float = 10.0
    """Time for the head of a request, from its first byte."""
    head_size: int = 16 << 10
    """Largest head of a request."""
    idle_timeout: float = 60.0
    """A connection without a request for this long is closed."""
    send_timeout: float = 60.0
    """A reader that does not take one buffer in this time is disconnected."""
