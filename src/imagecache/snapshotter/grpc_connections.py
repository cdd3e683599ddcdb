"""grpclib's server with a bound on its connections.

containerd has one or two. Whoever else may connect is root, but a client that leaks connections must not take the file
descriptors that mounts and layers need. A connection with a call in flight is never closed for another one. It must not
know what is called.
"""

from __future__ import annotations

from asyncio import BaseTransport, Transport
from collections.abc import Callable
from typing import cast

from grpclib.protocol import H2Protocol
from grpclib.server import Server

from imagecache.connection_limit import LoopConnections, OpenConnection


class BoundedServer(Server):
    """``connections`` at a time: another one closes the one that has been idle for longest."""

    _connections: LoopConnections

    def bound(self, connections: int) -> None:
        """Call it before ``start``."""
        self._connections = LoopConnections(connections)

    def _protocol_factory(self) -> H2Protocol:
        """What ``Server.start`` has asyncio call for each connection (grpclib 0.4.9)."""
        made = super()._protocol_factory()
        return _Counted(made, self._connections)


class _Counted(H2Protocol):
    """A protocol of grpclib's that enters the limit and leaves it."""

    def __init__(self, made: H2Protocol, connections: LoopConnections) -> None:
        super().__init__(made.handler, made.config, made.h2_config)
        self._connections = connections
        self._entry: OpenConnection | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        abort: Callable[[], None] = cast("Transport", transport).abort
        entry = OpenConnection(abort, self._is_idle)
        if self._connections.add(entry):
            self._entry = entry
        else:
            abort()

    def _is_idle(self) -> bool:
        return not self.processor.streams

    def data_received(self, data: bytes) -> None:
        if self._entry is not None:
            self._connections.used(self._entry)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._entry is not None:
            self._connections.remove(self._entry)
        super().connection_lost(exc)
