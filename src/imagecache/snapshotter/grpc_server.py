"""The gRPC server: on a unix socket of our own, or on one that the service manager holds.

A socket of the service manager outlives us: while we restart, callers wait instead of failing. It must not read the
environment (``apps`` finds the inherited socket), and must not unmount anything when it stops.
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

from imagecache.backoff import Backoff, Retries
from imagecache.errors import ImageCacheError
from imagecache.oserrors import converting
from imagecache.snapshotter.grpc_connections import BoundedServer
from imagecache.snapshotter.grpc_service import Answered, SnapshotsService, ignore
from imagecache.snapshotter.snapshotter import Snapshotter

_log = structlog.get_logger(__name__)
_BACKLOG = 128
_CONNECTIONS = 128
"""At a time. containerd has one, and one more for each client of its own that looks at our health."""
_CLEAN_AGAIN = 60.0
"""Longest pause, in seconds, before the next clean-up while something is left."""
_CLOSING = 1.0
"""Seconds for containerd to close its connections when we stop."""


async def serve(
    snapshotter: Snapshotter,
    address: Path | socket.socket,
    *,
    ready: Callable[[], None] | None = None,
    answered: Answered = ignore,
    connections: int = _CONNECTIONS,
) -> None:
    """Serve until cancelled; then calls in flight get ``stop_grace`` seconds.

    Args:
        snapshotter: the caller closes it.
        address: where to listen (with mode 0600), or a listening socket.
        ready: called when calls are answered.
        answered: called for every call.
        connections: at a time; another one closes one without a call in flight.

    Raises:
        StoreDenied, StoreError: the socket cannot be made.
    """
    service = SnapshotsService(snapshotter, answered)
    healthy = ServiceStatus()
    healthy.set(True)
    server = BoundedServer([service, Health({OVERALL: [healthy], service: [healthy]})])
    server.bound(connections)
    listener = listen(address) if isinstance(address, Path) else address
    await server.start(sock=listener)
    cleaning = asyncio.create_task(_keep_clean(service, Backoff(snapshotter.settings.clean_again, _CLEAN_AGAIN)))
    try:
        if ready is not None:
            ready()
        await asyncio.Event().wait()
    finally:
        if isinstance(address, Path):
            address.unlink(missing_ok=True)  # noqa: ASYNC240 - one call, when nothing is served any longer
        await _stop(server, service, snapshotter.settings.stop_grace)
        cleaning.cancel()


def listen(path: Path) -> socket.socket:
    """A listening socket that only its owner may connect to. Replaces one that a killed process left."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with converting(path):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(temporary))
            temporary.chmod(0o600)  # before it has its name: bind(2) makes it with the umask's mode
            listener.listen(_BACKLOG)
            temporary.rename(path)  # after listen(2): from its first moment, the name accepts connections
        except BaseException:
            listener.close()
            temporary.unlink(missing_ok=True)
            raise
    return listener


async def _keep_clean(service: SnapshotsService, backoff: Backoff) -> None:
    """Clean up at the start, since there may have been a crash, and again after each clean-up that left something.

    containerd asks for one when it has removed snapshots, and not again: a layer image whose mount was busy then would
    stay on the node until something else is removed.
    """
    retries = Retries(backoff, _log, "clean-up failed, will try again")
    while True:
        problem = None
        service.left.clear()
        try:
            await service.clean_up()
        except ImageCacheError as error:
            problem = error
        if not service.left.is_set():
            retries.succeeded()
            await service.left.wait()
        await asyncio.sleep(retries.failed(problem))


async def _stop(server: Server, service: SnapshotsService, grace: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(service.idle(), grace)
    server.close()
    with contextlib.suppress(TimeoutError):  # from Python 3.12 on, it waits for the peer to close
        await asyncio.wait_for(server.wait_closed(), _CLOSING)
    service.close()
