"""kopf watches the ImageCaches, and hands every change on. Why so little of it is used: docs/adr/0015-kopf.md.

One handler for raw events: kopf then writes nothing, no finalizer, no annotation, no peering object. It runs in a
thread with a loop of its own, because it takes over signals and ends every task of its loop when it stops. It must not
decide anything.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import kopf

from imagecache.api.types import GROUP
from imagecache.kube.api import Object
from imagecache.kube.connection import Connection
from imagecache.kube.resources import IMAGE_CACHES
from imagecache.telemetry.log import get_logger

Take = Callable[[Object, bool], None]
"""An object as it is now, and whether it is gone."""
_PAUSE = 5.0
"""Seconds until kopf is started again after it gave up on the API server."""
_BACKOFFS = (0.5, 1, 2, 3, 5)
"""Seconds between the tries of one request before that."""
_log = get_logger(__name__)


class Watcher:
    """Watches from ``start`` to ``stop``; ``take`` is called in the event loop that called ``start``."""

    def __init__(self, connection: Connection, take: Take) -> None:
        self._connection = connection
        self._take = take
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._stop_kopf: Callable[[], object] = lambda: None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        _adopt_logs()
        self._thread = threading.Thread(target=self._run, args=(loop,), name="kopf", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        self._stop.set()
        self._stop_kopf()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.is_set():
            try:
                asyncio.run(self._operate(loop))
            except Exception as error:  # noqa: BLE001 - a supervisor: kopf may raise anything
                _log.warning("watching ended, will begin again", kind=type(error).__name__, problem=str(error))
            self._stop.wait(_PAUSE)

    async def _operate(self, loop: asyncio.AbstractEventLoop) -> None:
        own, stop = asyncio.get_running_loop(), asyncio.Event()
        self._stop_kopf = lambda: _call(own, stop.set)
        if self._stop.is_set():
            return
        await kopf.operator(
            registry=self._registry(loop),
            settings=_settings(),
            standalone=True,
            clusterwide=True,
            stop_flag=stop,
            identity="imagecache",  # type: ignore[arg-type]  # a NewType that kopf does not export; else it asks for our user's name
        )

    def _registry(self, loop: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        handler = kopf.on.event(GROUP, IMAGE_CACHES.version, IMAGE_CACHES.plural, registry=registry)
        login = kopf.on.login(registry=registry)

        async def changed(event: kopf.RawEvent, **_: object) -> None:
            item = cast("Object", event["object"])
            gone = event["type"] == "DELETED"
            _call(loop, lambda: self._take(item, gone))

        async def logged_in(**_: object) -> kopf.ConnectionInfo:
            return _info(self._connection)

        handler(changed)
        login(logged_in)
        return registry


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """In another thread's loop, if that still runs."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # no list of CRDs and namespaces: our role has no such verbs
    settings.process.ultimate_exiting_timeout = None
    settings.networking.error_backoffs = _BACKOFFS
    return settings


def _info(connection: Connection) -> kopf.ConnectionInfo:
    token = connection.token
    if connection.token_file is not None:
        token = connection.token_file.read_text(encoding="ascii").strip()
    return kopf.ConnectionInfo(
        server=connection.server,
        ca_data=connection.ca or None,
        insecure=connection.insecure or None,
        certificate_data=connection.certificate or None,
        private_key_data=connection.key or None,
        token=token or None,
    )


class _Handler(logging.Handler):
    """kopf's warnings among ours."""

    def emit(self, record: logging.LogRecord) -> None:
        if "OS signals are ignored" not in record.getMessage():
            _log.warning("kopf", problem=record.getMessage())


def _adopt_logs() -> None:
    logger = logging.getLogger("kopf")
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    logger.handlers = [_Handler(logging.WARNING)]
