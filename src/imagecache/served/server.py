"""The store over HTTPS: the wire protocol of ``wire``, for allowed agents only.

aiohttp's ``FileResponse`` is not used for layers: over TLS there is no sendfile, and asyncio's substitute moves 16 KiB
at a time (``docs/adr/0017-served-store.md``). Reads happen in threads of our own, so that a slow disk stops neither
probes nor other requests. It must not write to the store, and must not log a token.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from imagecache.digest import Digest
from imagecache.errors import ImageCacheError, InvalidInput, StoreError
from imagecache.served import wire
from imagecache.served.auth import Gate, Refused
from imagecache.served.directory import StoreReader, read_piece
from imagecache.store.model import LayerName, SnapshotDocument
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_OPEN = frozenset({"/livez", "/readyz"})
_ETAGS = 100_000
_SLICE = 256 << 10
"""Bytes encrypted and sent in one go: they stay in the processor's cache between the two."""
_T = TypeVar("_T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Sizes in bytes, times in seconds."""

    host: str = "0.0.0.0"  # noqa: S104 - a Service of the cluster; every request needs a token
    port: int = 8443
    """0: any free one."""
    streams: int = 64
    """Layers being sent at once; each needs about three pieces of memory."""
    queue: int = 1024
    """Requests that may wait for their turn; more are told to come back (503)."""
    piece: int = 1 << 20
    """Read and sent at once."""
    stall: float = 60.0
    """Silence of a reader after which its connection is closed."""


class StoreServer:
    """One listening socket. ``sent`` is told the bytes of layers that went out."""

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
        self._etags: OrderedDict[LayerName, Digest] = OrderedDict()
        self._turns = asyncio.Semaphore(settings.streams)
        self._waiting = 0
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="served")
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen; returns the port. Raises StoreError when the address cannot be had."""
        app = web.Application(middlewares=[self._edge])
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/v1/snapshots/{id}", self._snapshot)
        app.router.add_get("/v1/blobs/{digest}", self._document)
        app.router.add_get("/v1/layers/{space}/{digest}", self._layer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.host, self._settings.port, ssl_context=self._tls)
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            raise StoreError(f"cannot listen on {self._settings.host}:{self._settings.port}: {error}") from error
        port: int = self._runner.addresses[0][1]
        _log.info("store is served", port=port)
        return port

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @web.middleware
    async def _edge(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Authentication before, translation of errors behind."""
        try:
            if request.path not in _OPEN:
                await self._gate.admit(request.headers.get("Authorization", ""))
            return await handler(request)
        except Refused as refused:
            headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
            return _problem(refused.status, refused.reason, refused.message, headers)
        except web.HTTPException as answer:  # no such path, or not a GET
            return _problem(answer.status, "NotFound", answer.reason)
        except ImageCacheError as error:
            return self._failed(request, error)

    def _failed(self, request: web.Request, error: ImageCacheError) -> web.Response:
        status = 503 if not isinstance(error, StoreError | InvalidInput) else wire.status_of(error.reason)
        status = wire.status_of(error.reason) if error.reason == "NotFound" else status
        if status >= 500:
            _log.warning("request failed", path=request.path, reason=error.reason, problem=str(error))
        headers = {"Retry-After": wire.RETRY_AFTER} if status == 503 else {}
        return _problem(status, error.reason, str(error), headers)

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        try:
            await self._in_thread(self._reader.ready)
        except StoreError as error:
            return _problem(503, error.reason, str(error))
        return web.Response(text="ok\n")

    async def _snapshot(self, request: web.Request) -> web.Response:
        snapshot_id = wire.check_snapshot_id(request.match_info["id"])
        document = await self._in_thread(lambda: self._reader.snapshot(snapshot_id))
        self._remember(document)
        return web.Response(body=wire.encode_snapshot(document), content_type="application/json")

    async def _document(self, request: web.Request) -> web.Response:
        digest = Digest(request.match_info["digest"])
        body = await self._in_thread(lambda: self._reader.document(digest))
        return web.Response(body=body, content_type="application/octet-stream")

    async def _layer(self, request: web.Request) -> web.StreamResponse:
        name = LayerName.parse(f"{request.match_info['space']}/{request.match_info['digest']}")
        if self._waiting >= self._settings.queue:
            return _problem(503, "StoreBusy", "too many layers are being sent", {"Retry-After": wire.RETRY_AFTER})
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            fd, size = await self._in_thread(lambda: self._reader.open_layer(name))
            try:
                return await self._answer(request, name, fd, size)
            finally:
                os.close(fd)
        finally:
            self._turns.release()

    async def _answer(self, request: web.Request, name: LayerName, fd: int, size: int) -> web.StreamResponse:
        span = _span(request, size)
        if span is None:
            return _problem(416, "InvalidInput", "no such range", {"Content-Range": f"bytes */{size}"})
        start, end = span
        partial = "Range" in request.headers
        response = web.StreamResponse(status=206 if partial else 200, headers=self._layer_headers(name))
        if partial:
            response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        response.content_length = end - start
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        try:
            await self._send(response, fd, start, end)
        except (ConnectionError, TimeoutError):  # the reader went away, or sleeps: nobody is left to be told
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _send(self, response: web.StreamResponse, fd: int, start: int, end: int) -> None:
        while start < end:
            length = min(self._settings.piece, end - start)
            piece = await self._in_thread(lambda start=start, length=length: read_piece(fd, start, length))  # type: ignore[misc]
            if not piece:
                raise ConnectionError  # cut short on disk: so is the answer, and the reader sees it
            view = memoryview(piece)
            async with asyncio.timeout(self._settings.stall):
                for at in range(0, len(piece), _SLICE):
                    await response.write(view[at : at + _SLICE])
            start += len(piece)
            self._sent(len(piece))
        await response.write_eof()

    def _layer_headers(self, name: LayerName) -> dict[str, str]:
        headers = {
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, max-age=31536000, immutable",
            "Content-Type": "application/octet-stream",
        }
        known = self._etags.get(name)
        return headers | ({"ETag": f'"{known}"'} if known else {})

    def _remember(self, document: SnapshotDocument) -> None:
        """Digests of layer image files: who fetches layers asks for the snapshot first."""
        for layer in (layer for image in document.images for layer in image.layers):
            self._etags[layer.name] = layer.sha256
            self._etags.move_to_end(layer.name)
        while len(self._etags) > _ETAGS:
            self._etags.popitem(last=False)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _span(request: web.Request, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None for what cannot be satisfied (RFC 9110 14.1.2)."""
    try:
        wanted = request.http_range
    except ValueError:
        return None
    start, end, _step = wanted.indices(size)
    return (start, end) if start < end or (size == 0 and "Range" not in request.headers) else None


def _problem(status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = wire.problem(reason, message)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
