"""What the store answers to a request: authentication before, translation of errors behind.

Blocking, for threads. It must not write to the store, must not log a token, and must not know how answers travel.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http import HTTPStatus

from imagecache.digest import Digest
from imagecache.errors import ImageCacheError, InternalError, StoreBusy, StoreCorrupt, StoreError
from imagecache.served import routes, wire
from imagecache.served.admission import Admission
from imagecache.served.auth import Refused
from imagecache.served.directory import StoreReader, read_into
from imagecache.served.routes import Answer, Request
from imagecache.served.turns import Turns
from imagecache.store.model import LayerName, SnapshotDocument
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_ETAGS = 100_000


class Answers:
    """Thread-safe. ``sent`` is told the bytes of layers that went out, from the threads that sent them."""

    def __init__(self, reader: StoreReader, admission: Admission, turns: Turns, sent: Callable[[int], None]) -> None:
        self._reader = reader
        self._admission = admission
        self._turns = turns
        self._sent = sent
        self._etags = _Etags()

    def answer(self, request: Request, held: ExitStack) -> Answer:
        """Raises nothing. ``held`` takes what the answer's body needs; to be closed when that is sent."""
        try:
            return self._found(request, held)
        except Refused as refused:
            return routes.refusal(refused)
        except ImageCacheError as error:
            return _failed(request, error)
        except Exception as error:  # noqa: BLE001 - the edge: a bug of ours must not end what else is served
            _log.error("request failed unexpectedly", path=request.path, kind=type(error).__name__, at=_place(error))
            return routes.failure(InternalError("the request cannot be answered; the server's log says why"))

    def _found(self, request: Request, held: ExitStack) -> Answer:
        if not request.open:
            self._admission.admit(request.headers.get("authorization", ""))
        find = self._route(request, held)
        if find is None:
            return routes.unknown(HTTPStatus.NOT_FOUND)
        if request.method not in routes.METHODS:
            return routes.unknown(HTTPStatus.METHOD_NOT_ALLOWED)
        return find()

    def _route(self, request: Request, held: ExitStack) -> Callable[[], Answer] | None:
        match request.segments:
            case ["livez"]:
                return _fine
            case ["readyz"]:
                return self._ready
            case ["v1", "snapshots", snapshot_id]:
                return lambda: self._snapshot(snapshot_id)
            case ["v1", "blobs", digest]:
                return lambda: self._document(digest)
            case ["v1", "layers", space, digest]:
                return lambda: self._layer(request, f"{space}/{digest}", held)
            case _:
                return None

    def _ready(self) -> Answer:
        try:
            self._reader.ready()
        except StoreError as error:  # each probe says so again: not worth a line of the log
            return routes.problem(503, error.reason, str(error))
        return _fine()

    def _snapshot(self, snapshot_id: str) -> Answer:
        document = self._reader.snapshot(wire.check_snapshot_id(snapshot_id))
        self._etags.remember(document)
        return routes.whole(wire.encode_snapshot(document), "application/json")

    def _document(self, digest: str) -> Answer:
        return routes.whole(self._reader.document(Digest(digest)), "application/octet-stream")

    def _layer(self, request: Request, text: str, held: ExitStack) -> Answer:
        name = LayerName.parse(text)
        memory = held.enter_context(self._turns.turn())
        fd, size = self._reader.open_layer(name)
        held.callback(os.close, fd)
        wanted = request.headers.get("range")
        found = routes.span(wanted, size)
        if found is None:
            return routes.no_such_range(size)
        start, end = found
        part = None if wanted is None else f"bytes {start}-{end - 1}/{size}"
        body = self._pieces(name, fd, found, memory)
        return Answer(206 if part else 200, end - start, body, routes.layer_fields(self._etags.get(name), part))

    def _pieces(self, name: LayerName, fd: int, found: tuple[int, int], memory: memoryview) -> Iterator[memoryview]:
        start, end = found
        while start < end:
            count = read_into(fd, memory[: end - start], start)
            if not count:
                raise StoreCorrupt(f"layer image {name} ends at byte {start} while it is read")
            yield memory[:count]
            start += count
            self._sent(count)


class _Etags:
    """Digests of layer image files: who fetches layers asks for the snapshot first. Thread-safe."""

    def __init__(self) -> None:
        self._digests: OrderedDict[LayerName, Digest] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: LayerName) -> Digest | None:
        with self._lock:
            return self._digests.get(name)

    def remember(self, document: SnapshotDocument) -> None:
        with self._lock:
            for layer in (layer for image in document.images for layer in image.layers):
                self._digests[layer.name] = layer.sha256
                self._digests.move_to_end(layer.name)
            while len(self._digests) > _ETAGS:
                self._digests.popitem(last=False)


def _fine() -> Answer:
    return routes.whole(b"ok\n", "text/plain; charset=utf-8")


def _failed(request: Request, error: ImageCacheError) -> Answer:
    answer = routes.failure(error)
    if answer.status >= 500 and not isinstance(error, StoreBusy):
        _log.warning("request failed", path=request.path, reason=error.reason, problem=str(error))
    return answer


def _place(error: Exception) -> str:
    """Where it was raised. A whole traceback might say what the reader sent."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"
