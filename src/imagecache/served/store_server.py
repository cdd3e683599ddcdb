"""The store over HTTPS: ``protocol``, for allowed agents only.

Every connection blocks in a thread: an event loop's TLS takes twice the processor time for a layer, and takes it from
the loop that the controller lives in (``docs/adr/0017-served-store.md``). This module joins the parts and stops
them. It must not write to the store but for compressed blocks, and must not log a token.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from imagecache.connection_limit import ConnectionLimit
from imagecache.served.acceptor import Acceptor, listen
from imagecache.served.access import NodeCaches
from imagecache.served.authenticator import Authenticator, ThreadedAuthenticator
from imagecache.served.block_packer import BlockPacker
from imagecache.served.bounded_queue import BoundedQueue
from imagecache.served.request_handler import RequestHandler
from imagecache.served.server_connection import ServerConnection
from imagecache.served.server_settings import ServerSettings
from imagecache.served.store_reader import StoreReader
from imagecache.store.packed_blocks import PackedBlocks
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_STOP = 1.5
"""Seconds for threads to end: they do at once, unless they are in a read(2) that hangs."""


class StoreServer:
    """One listening socket. ``sent`` is called with the bytes of layers that were sent, from many threads.

    ``caches`` decides which node may read what; None: every node everything. ``packed`` keeps compressed blocks; None:
    none are made.
    """

    def __init__(  # noqa: PLR0913 - the parts of a server
        self,
        reader: StoreReader,
        authenticator: Authenticator,
        settings: ServerSettings,
        *,
        tls: ssl.SSLContext,
        caches: NodeCaches | None = None,
        packed: PackedBlocks | None = None,
        sent: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._reader = reader
        self._authenticator = authenticator
        self._settings = settings
        self._tls = tls
        self._caches = caches
        self._packed = packed
        self._sent = sent
        self._running: _Running | None = None

    async def start(self) -> int:
        """Listen; returns the port. Raises StoreError when the address cannot be used.

        The authenticator runs in the event loop of the caller.
        """
        settings = self._settings
        if self._packed is not None:
            await asyncio.to_thread(self._packed.trim)
        listener = listen(settings.host, settings.port)
        authenticator = ThreadedAuthenticator(self._authenticator, asyncio.get_running_loop(), settings.review_timeout)
        streams, partial_streams = (
            BoundedQueue(
                slots,
                capacity=settings.queue_capacity,
                timeout=settings.queue_timeout,
                buffer_size=settings.buffer_size,
            )
            for slots in (settings.streams, settings.partial_streams)
        )
        limit = ConnectionLimit(_most_connections(settings.connections))
        handler = RequestHandler(
            self._reader,
            authenticator,
            streams,
            partial_streams,
            self._sent,
            packer=None if self._packed is None else BlockPacker(self._packed, settings.packers),
            caches=self._caches,
        )
        acceptor = Acceptor(listener, self._tls, limit, lambda sock: ServerConnection(sock, limit, handler, settings))
        self._running = _Running(acceptor, limit, handler, (streams, partial_streams), authenticator)
        port = acceptor.port
        acceptor.start()
        _log.info("store is served", port=port)
        return port

    async def stop(self) -> None:
        """Within two seconds; open connections are cut. Idempotent."""
        running, self._running = self._running, None
        if running is not None:
            running.close()
            with ThreadPoolExecutor(1, thread_name_prefix="served-stop") as waiting:
                left = await asyncio.get_running_loop().run_in_executor(waiting, running.acceptor.join, _STOP)
            if left:
                _log.warning("threads of the served store have not ended: a read from the disk hangs", threads=left)


@dataclass(frozen=True, slots=True)
class _Running:
    acceptor: Acceptor
    limit: ConnectionLimit
    handler: RequestHandler
    queues: tuple[BoundedQueue, ...]
    authenticator: ThreadedAuthenticator

    def close(self) -> None:
        """End everything that a thread may wait for, so that all threads end."""
        self.acceptor.stop()
        self.limit.close()
        self.handler.close()
        for queue in self.queues:
            queue.close()
        self.authenticator.close()


def _most_connections(wanted: int) -> int:
    """At most half of the files that this process may open: layers and the rest of the process need some, too."""
    files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if files == resource.RLIM_INFINITY else max(1, min(wanted, files // 2))
