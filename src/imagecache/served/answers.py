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
from imagecache.errors import ImageCacheError, InternalError, InvalidInput, StoreBusy, StoreCorrupt, StoreError
from imagecache.served import routes, wire
from imagecache.served.admission import Admission
from imagecache.served.auth import Refused
from imagecache.served.bounded_queue import BoundedQueue
from imagecache.served.partial_layers import PartialLayers, PartialLayerSettings
from imagecache.served.routes import Answer, Request
from imagecache.served.store_reader import StoreReader, read_into
from imagecache.store.model import Bundle, LayerName
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_ETAGS = 100_000


class Answers:
    """Thread-safe. ``sent`` is told the bytes of layers that went out, from the threads that sent them."""

    def __init__(
        self,
        reader: StoreReader,
        admission: Admission,
        turns: BoundedQueue,
        early: BoundedQueue,
        sent: Callable[[int], None],
        *,
        growth: PartialLayerSettings | None = None,
    ) -> None:
        """``early``: turns for layers that are still being made, fewer, since the build needs the processor too."""
        self._reader = reader
        self._early = early
        self._growth = PartialLayers(reader, growth)
        self._admission = admission
        self._turns = turns
        self._sent = sent
        self._etags = _Etags()

    def close(self) -> None:
        """Whoever waits for a layer that is being made is told to come back."""
        self._growth.close()

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
            case ["v1", *rest]:
                return self._version_1(request, rest, held)
            case _:
                return None

    def _version_1(self, request: Request, segments: list[str], held: ExitStack) -> Callable[[], Answer] | None:
        match segments:
            case ["bundles", bundle_id]:
                return lambda: self._bundle(bundle_id)
            case ["blobs", digest]:
                return lambda: self._document(digest)
            case ["layers", space, digest]:
                return lambda: self._layer(request, f"{space}/{digest}", held)
            case ["builds", bundle_id]:
                return lambda: self._build(bundle_id)
            case ["partial", space, digest]:
                return lambda: self._partial(request, f"{space}/{digest}", held)
            case _:
                return None

    def _ready(self) -> Answer:
        try:
            self._reader.ready()
        except StoreError as error:  # each probe says so again: not worth a line of the log
            return routes.problem(503, error.reason, str(error))
        return _fine()

    def _bundle(self, bundle_id: str) -> Answer:
        document = self._reader.bundle(wire.check_bundle_id(bundle_id))
        self._etags.remember(document)
        return routes.whole(wire.encode_bundle(document), "application/json")

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
        part = None if wanted is None else wire.content_range(start, end, size)
        body = self._pieces(name, fd, found, memory)
        return Answer(206 if part else 200, end - start, body, routes.layer_fields(self._etags.get(name), part))

    def _build(self, bundle_id: str) -> Answer:
        names = self._reader.building(wire.check_bundle_id(bundle_id))
        return routes.whole(wire.encode_names(names), "application/json")

    def _partial(self, request: Request, text: str, held: ExitStack) -> Answer:
        """The wait comes before the turn: turns are for those who can be answered."""
        name, wanted = LayerName.parse(text), routes.from_to(request.headers.get("range"))
        if wanted is None:
            raise InvalidInput("a layer image in the making is asked for by range", hint="Range: bytes=4096-8191")
        start, most = wanted
        grown = self._growth.wait(name, start, most)
        held.callback(os.close, grown.fd)
        end = min(grown.end, most)
        if end <= start:
            return routes.no_such_range(grown.size)
        turns = self._early if grown.size is None else self._turns
        memory = held.enter_context(turns.turn())
        fields = routes.layer_fields(None, wire.content_range(start, end, grown.size), final=False)
        return Answer(206, end - start, self._pieces(name, grown.fd, (start, end), memory), fields)

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
    """Digests of layer image files: who fetches layers asks for the bundle first. Thread-safe."""

    def __init__(self) -> None:
        self._digests: OrderedDict[LayerName, Digest] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: LayerName) -> Digest | None:
        with self._lock:
            return self._digests.get(name)

    def remember(self, document: Bundle) -> None:
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
