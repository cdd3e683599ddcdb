"""The store's response to a request: authentication first, translation of errors last.

Blocking, for threads. It must not log a token, and must not know how responses travel.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus

from imagecache.digest import Digest
from imagecache.errors import ImageCacheError, InternalError, InvalidInput, StoreBusy, StoreCorrupt, StoreError
from imagecache.served import http_messages, protocol
from imagecache.served.access import Access, EveryNode, NodeCaches
from imagecache.served.authenticator import Caller, Refused, ThreadedAuthenticator
from imagecache.served.block_packer import BlockPacker, Source
from imagecache.served.bounded_queue import BoundedQueue
from imagecache.served.http_messages import Request, Response
from imagecache.served.partial_layers import PartialLayers, PartialLayerSettings
from imagecache.served.store_reader import StoreReader, read_into
from imagecache.store.bundle_document import Bundle, encode
from imagecache.store.layer_name import LayerName
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_ETAGS = 100_000
"""Most digests of layer images that are remembered."""
Endpoint = Callable[[], Response]


class RequestHandler:
    """Thread-safe."""

    def __init__(  # noqa: PLR0913 - the parts of a server
        self,
        reader: StoreReader,
        authenticator: ThreadedAuthenticator,
        streams: BoundedQueue,
        partial_streams: BoundedQueue,
        sent: Callable[[int], None],
        *,
        packer: BlockPacker | None = None,
        waits: PartialLayerSettings | None = None,
        caches: NodeCaches | None = None,
    ) -> None:
        """Make the handler.

        Args:
            reader: of the store.
            authenticator: of everybody but probes.
            streams: slots for sending finished layers.
            partial_streams: slots for sending partial ones; fewer, since their build needs the processor too.
            sent: called with the number of bytes of layers that were sent, from the threads that sent them.
            packer: of blocks; None: they are sent as they are.
            waits: bounds of the waits for more of a partial layer.
            caches: which node may read what; None: every node everything.
        """
        self._reader = reader
        self._authenticator = authenticator
        self._access = Access(reader, caches or EveryNode())
        self._streams = streams
        self._partial_streams = partial_streams
        self._partial_layers = PartialLayers(reader, waits)
        self._packer = packer
        self._sent = sent
        self._etags = _Etags()

    def close(self) -> None:
        """Requests that wait for a partial layer get 503."""
        self._partial_layers.close()

    def respond(self, request: Request, held: ExitStack) -> Response:
        """Raises nothing. ``held`` gets what the response's body needs; close it when that is sent."""
        try:
            return self._respond(request, held)
        except Refused as refused:
            return http_messages.refusal(refused)
        except ImageCacheError as error:
            response = http_messages.failure(error)
            if response.status >= 500 and not isinstance(error, StoreBusy):
                _log.warning("request failed", path=request.path, reason=error.reason, problem=str(error))
            return response
        except Exception as error:  # noqa: BLE001 - the edge: a bug of ours must not end what else is served
            _log.error(
                "request failed unexpectedly", path=request.path, kind=type(error).__name__, at=_raised_at(error)
            )
            return http_messages.failure(InternalError("the request failed; the server's log has the cause"))

    def _respond(self, request: Request, held: ExitStack) -> Response:
        words = request.headers.get("authorization", "")
        # probes are open to everybody, and have no endpoint that asks who calls
        caller = Caller("") if request.open else self._authenticator.authenticate(words)
        endpoint = self._endpoint(request, caller, held)
        if endpoint is None:
            return http_messages.unknown(HTTPStatus.NOT_FOUND)
        if request.method not in http_messages.METHODS:
            return http_messages.unknown(HTTPStatus.METHOD_NOT_ALLOWED)
        return endpoint()

    def _endpoint(self, request: Request, caller: Caller, held: ExitStack) -> Endpoint | None:
        endpoint: Endpoint | None = None
        match request.segments:
            case ["livez"]:
                endpoint = _ok
            case ["readyz"]:
                endpoint = self._ready
            case ["v1", "bundles", bundle_id]:
                endpoint = partial(self._bundle, caller, bundle_id)
            case ["v1", "blobs", digest]:
                endpoint = partial(self._document, caller, digest)
            case ["v1", "builds", bundle_id, architecture]:
                endpoint = partial(self._build, caller, bundle_id, architecture)
            case ["v1", "layers", space, digest]:
                endpoint = partial(self._layer, request, caller, f"{space}/{digest}", held)
            case ["v1", "blocks", space, digest, number]:
                endpoint = partial(self._block, request, caller, f"{space}/{digest}", number, held)
            case ["v1", "partial", space, digest]:
                endpoint = partial(self._partial, request, caller, f"{space}/{digest}", held)
        return endpoint

    def _ready(self) -> Response:
        try:
            self._reader.ready()
        except StoreError as error:  # every probe finds it again: not worth a line in the log each time
            return http_messages.problem(503, error.reason, str(error))
        return _ok()

    def _bundle(self, caller: Caller, bundle_id: str) -> Response:
        document = self._reader.bundle(protocol.check_bundle_id(bundle_id))
        self._access.bundle(caller, document)
        self._etags.remember(document)
        return http_messages.whole(encode(document), "application/json")

    def _document(self, caller: Caller, text: str) -> Response:
        digest = Digest(text)
        self._access.document(caller, digest)
        return http_messages.whole(self._reader.document(digest), "application/octet-stream")

    def _build(self, caller: Caller, bundle_id: str, architecture: str) -> Response:
        build = protocol.check_bundle_id(bundle_id), protocol.check_architecture(architecture)
        self._access.build(caller, bundle_id)
        names = self._reader.building(*build)
        return http_messages.whole(protocol.encode_names(names), "application/json")

    def _layer(self, request: Request, caller: Caller, text: str, held: ExitStack) -> Response:
        name = LayerName.parse(text)
        self._access.layer(caller, name)
        buffer = held.enter_context(self._streams.slot())  # before the file: descriptors are bounded by slots, too
        fd, size = self._reader.open_layer(name)
        held.callback(os.close, fd)
        wanted = request.headers.get("range")
        span = http_messages.span(wanted, size)
        if span is None:
            return http_messages.no_such_range(size)
        start, end = span
        content_range = None if wanted is None else protocol.content_range(start, end, size)
        fields = http_messages.layer_fields(self._etags.get(name), content_range)
        return Response(206 if content_range else 200, end - start, self._pieces(name, fd, span, buffer), fields)

    def _block(self, request: Request, caller: Caller, text: str, digits: str, held: ExitStack) -> Response:
        name, number = LayerName.parse(text), protocol.parse_number(digits)
        self._access.layer(caller, name)
        buffer = held.enter_context(self._streams.slot())
        fd, size = self._reader.open_layer(name)
        held.callback(os.close, fd)
        start = number * protocol.BLOCK
        if start >= size:
            return http_messages.no_such_range(size)
        span = start, min(start + protocol.BLOCK, size)
        packed = None
        wanted = http_messages.accepts(request.headers.get("accept-encoding"), protocol.ZSTD)
        if self._packer is not None and wanted and request.method == "GET":
            packed = self._packer.packed(Source(name, number, fd, span), buffer, held)
        if packed is None:
            fields = http_messages.block_fields(None)
            return Response(200, span[1] - start, self._pieces(name, fd, span, buffer), fields)
        return Response(200, packed.length, self._counted(packed.pieces), http_messages.block_fields(protocol.ZSTD))

    def _counted(self, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        for piece in pieces:
            yield piece
            self._sent(len(piece))

    def _partial(self, request: Request, caller: Caller, text: str, held: ExitStack) -> Response:
        name, span = LayerName.parse(text), http_messages.from_to(request.headers.get("range"))
        self._access.layer(caller, name)
        if span is None:
            raise InvalidInput("a partial layer is requested by range", hint="Range: bytes=4096-8191")
        start, limit = span
        # The wait comes before the slot: slots are for requests that can be answered.
        layer = self._partial_layers.wait(name, start, limit)
        held.callback(os.close, layer.fd)
        end = min(layer.end, limit)
        if end <= start:
            return http_messages.no_such_range(layer.size)
        streams = self._partial_streams if layer.size is None else self._streams
        buffer = held.enter_context(streams.slot())
        fields = http_messages.layer_fields(None, protocol.content_range(start, end, layer.size), final=False)
        return Response(206, end - start, self._pieces(name, layer.fd, (start, end), buffer), fields)

    def _pieces(self, name: LayerName, fd: int, span: tuple[int, int], buffer: memoryview) -> Iterator[memoryview]:
        start, end = span
        while start < end:
            count = read_into(fd, buffer[: end - start], start)
            if not count:
                raise StoreCorrupt(f"layer image {name} ends at byte {start} while it is read")
            yield buffer[:count]
            start += count
            self._sent(count)


class _Etags:
    """Digests of layer image files, from bundles: a node fetches the bundle before its layers. Thread-safe."""

    def __init__(self) -> None:
        self._digests: OrderedDict[LayerName, Digest] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: LayerName) -> Digest | None:
        with self._lock:
            return self._digests.get(name)

    def remember(self, document: Bundle) -> None:
        with self._lock:
            for layer in (layer for image in document.images for layer in image.layers):
                self._digests[layer.name] = layer.digest
                self._digests.move_to_end(layer.name)
            while len(self._digests) > _ETAGS:
                self._digests.popitem(last=False)


def _ok() -> Response:
    return http_messages.whole(b"ok\n", "text/plain; charset=utf-8")


def _raised_at(error: Exception) -> str:
    """File and line. A whole traceback could repeat what the reader sent, and so a token."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"
