"""The store over HTTPS: the wire protocol of ``wire``, for allowed agents only.

Every connection blocks in a thread: an event loop's TLS takes twice the processor time for a layer, and takes it from
the loop that the controller lives in (``docs/adr/0017-served-store.md``). This puts the parts together and takes them
apart again. It must not write to the store, and must not log a token.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from imagecache.served.acceptor import Acceptor, listen
from imagecache.served.admission import Admission
from imagecache.served.answers import Answers
from imagecache.served.auth import Gate
from imagecache.served.bounded_queue import BoundedQueue
from imagecache.served.connection import Connection
from imagecache.served.connection_limit import ConnectionLimit
from imagecache.served.settings import ServerSettings
from imagecache.served.store_reader import StoreReader
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_STOP = 1.5
"""Seconds for threads to end. They do at once, but for those that a disk keeps waiting."""


class StoreServer:
    """One listening socket. ``sent`` is told the bytes of layers that went out, from many threads."""

    def __init__(
        self,
        reader: StoreReader,
        gate: Gate,
        settings: ServerSettings,
        *,
        tls: ssl.SSLContext,
        sent: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._reader = reader
        self._gate = gate
        self._settings = settings
        self._tls = tls
        self._sent = sent
        self._running: _Running | None = None

    async def start(self) -> int:
        """Listen; returns the port. Raises StoreError when the address cannot be had.

        The gate is asked in the event loop of the caller.
        """
        settings = self._settings
        listener = listen(settings.host, settings.port)
        admission = Admission(self._gate, asyncio.get_running_loop(), settings.review)
        turns, early = (
            BoundedQueue(most, waiting=settings.queue, patience=settings.patience, piece=settings.piece)
            for most in (settings.streams, settings.early)
        )
        room = ConnectionLimit(_most_connections(settings.connections))
        answers = Answers(self._reader, admission, turns, early, self._sent)
        acceptor = Acceptor(listener, self._tls, room, lambda sock: Connection(sock, room, answers, settings))
        self._running = _Running(acceptor, admission, answers, (turns, early), room)
        port = acceptor.port
        acceptor.start()
        _log.info("store is served", port=port)
        return port

    async def stop(self) -> None:
        """Within two seconds; readers see their connections cut. Idempotent."""
        running, self._running = self._running, None
        if running is not None:
            running.close()
            with ThreadPoolExecutor(1, thread_name_prefix="served-stop") as waiting:
                left = await asyncio.get_running_loop().run_in_executor(waiting, running.acceptor.join, _STOP)
            if left:
                _log.warning("the disk keeps threads of the served store waiting", threads=left)


@dataclass(frozen=True, slots=True)
class _Running:
    acceptor: Acceptor
    admission: Admission
    answers: Answers
    turns: tuple[BoundedQueue, ...]
    room: ConnectionLimit

    def close(self) -> None:
        """Whatever a thread may wait for ends; so do the threads."""
        self.acceptor.stop()
        self.room.close()
        self.answers.close()
        for each in self.turns:
            each.close()
        self.admission.close()


def _most_connections(wanted: int) -> int:
    """Layers, the rest of this process and the connections share the files that it may have open."""
    files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if files == resource.RLIM_INFINITY else max(1, min(wanted, files // 2))
