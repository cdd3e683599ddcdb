"""The server around the service: a unix socket of our own or one that the service manager holds, until cancelled.

A socket of the service manager outlives us: while we restart, callers wait instead of failing. It must not read the
environment (``apps`` finds the inherited socket) and must not unmount anything when it stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import structlog
from grpclib.health.check import ServiceStatus
from grpclib.health.service import OVERALL, Health
from grpclib.server import Server

from imagecache.errors import ImageCacheError
from imagecache.oserrors import converting
from imagecache.snapshotter.service import Answered, SnapshotsService, unheard
from imagecache.snapshotter.snapshotter import Snapshotter

_log = structlog.get_logger(__name__)
_BACKLOG = 128
_CLOSING = 1.0
"""Seconds for connections that containerd keeps open."""


async def serve(
    snapshotter: Snapshotter,
    address: Path | socket.socket,
    *,
    ready: Callable[[], None] | None = None,
    answered: Answered = unheard,
) -> None:
    """Serve until cancelled; then calls in flight get ``stop_grace`` seconds.

    Args:
        snapshotter: stays open; whoever made it closes it.
        address: where to listen (mode 0600), or a socket that listens already.
        ready: called when containerd can connect.
        answered: hears of every call.

    Raises:
        StoreDenied, StoreError: the socket cannot be made.
    """
    service = SnapshotsService(snapshotter, answered)
    healthy = ServiceStatus()
    healthy.set(True)
    server = Server([service, Health({OVERALL: [healthy], service: [healthy]})])
    listener = listen(address) if isinstance(address, Path) else address
    await server.start(sock=listener)
    tidying = asyncio.create_task(_tidy(service))
    try:
        if ready is not None:
            ready()
        await asyncio.Event().wait()
    finally:
        if isinstance(address, Path):
            address.unlink(missing_ok=True)  # noqa: ASYNC240 - one call, when nothing is left to be served
        await _stop(server, service, snapshotter.settings.stop_grace)
        tidying.cancel()


def listen(path: Path) -> socket.socket:
    """A listening socket that nobody but us may connect to at any moment; one that was left there is replaced."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with converting(path):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(temporary))
            temporary.chmod(0o600)
            listener.listen(_BACKLOG)
            temporary.rename(path)
        except BaseException:
            listener.close()
            temporary.unlink(missing_ok=True)
            raise
    return listener


async def _tidy(service: SnapshotsService) -> None:
    """What a crash left, once at the start."""
    try:
        await service.tidy()
    except ImageCacheError as error:
        _log.warning("clean-up at the start failed", problem=str(error))


async def _stop(server: Server, service: SnapshotsService, grace: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(service.idle(), grace)
    server.close()
    with contextlib.suppress(TimeoutError):  # from Python 3.12 on it waits for connections to be closed by the peer
        await asyncio.wait_for(server.wait_closed(), _CLOSING)
    service.close()
