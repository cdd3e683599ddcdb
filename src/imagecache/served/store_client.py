"""``fetch.remote_store.RemoteStore`` over HTTPS: a node's client of a ``store_server`` in the cluster.

A broken transfer continues by range from where it stopped; an error repeats nothing that the server wrote except the
names of our own errors. CA bundle and token are files that Kubernetes replaces: the token is read for each request, the
bundle when it has changed. Requests are made in threads (``blocking_https``). It must not trust layers: the caller
hashes them.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

from imagecache import __version__
from imagecache.backoff import Attempts, Backoff, Retryable
from imagecache.digest import Digest
from imagecache.errors import (
    DigestMismatch,
    ImageCacheError,
    InvalidSetting,
    LimitExceeded,
    StoreCorrupt,
    StoreError,
    StoreRefused,
    StoreUnreachable,
)
from imagecache.file_version import FileVersion, file_version
from imagecache.served import protocol
from imagecache.served.blocking_https import Endpoint, Exchange, Transport
from imagecache.store.layer_name import LayerName

_PROGRESS = 1 << 20
"""Bytes that reset the number of tries: fewer would let a server that sends one byte a time keep us for ever."""
_BLOCK_TRIES = 2
"""Of a block, which begins again each time: the caller then asks by range."""
_PROBLEM_LIMIT = 64 << 10
_TOKEN_LIMIT = 64 << 10
_PIECE = 256 << 10
"""Bytes read in one go; when a connection breaks, this many may have to be fetched again."""
_T = TypeVar("_T")
Receive = Callable[[http.client.HTTPResponse], _T]


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Times in seconds, sizes in bytes."""

    url: str
    """``https://imagecache-store.imagecache.svc:8443``."""
    ca_file: Path
    """PEM bundle that the server's certificate must be signed by; no other authority is trusted."""
    token_file: Path
    """A projected ServiceAccount token with the server's audience."""
    name: str = ""
    """In the server's certificate, for a URL with an IP address; empty: the URL's own host."""
    connections: int = 16
    """And threads; a request that finds none free waits."""
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    """Longest silence in the middle of a response."""
    attempts: int = 5
    """Tries of one request; of a range, tries without progress."""
    backoff: Backoff = Backoff(0.25, 10.0, jitter=0.5)
    """Before the second try and each after that."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True, slots=True)
class PartialRead:
    """What was read of a layer image that a build may still be writing."""

    count: int
    """Bytes; 0 when it did not grow for a while."""
    size: int | None
    """Of the finished file; None while it is not finished."""


@dataclass(frozen=True, slots=True)
class BlockRead:
    """What was read of a block."""

    count: int
    """Bytes that came."""
    packed: bool
    """They are ``layer.frames``, and not the block itself."""


@dataclass(slots=True)
class _Part:
    """Memory that is filled from its start, by one thread at a time."""

    target: memoryview
    filled: int = 0

    @property
    def left(self) -> int:
        return len(self.target) - self.filled

    def fill(self, response: http.client.HTTPResponse) -> None:
        """Until it is full or the response ends."""
        while self.left and (count := response.readinto(self.target[self.filled : self.filled + _PIECE])):
            self.filled += count


class StoreClient:
    """Use as an asynchronous context manager; one for a process. Raises InvalidSetting for an address without https."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        endpoint, self._base = _endpoint(settings)
        self._host = endpoint.host
        self._authority = urlsplit(settings.url).netloc
        self._transport = Transport(endpoint)
        self._threads = ThreadPoolExecutor(settings.connections, thread_name_prefix="served")
        self._trust: tuple[FileVersion | None, ssl.SSLContext] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._transport.close()

    async def bundle(self, bundle_id: str) -> bytes:
        protocol.check_bundle_id(bundle_id)
        return await self._whole(protocol.bundle_path(bundle_id), protocol.BUNDLE_LIMIT, f"bundle {bundle_id}")

    async def document(self, digest: Digest) -> bytes:
        what = f"document {digest}"
        body = await self._whole(protocol.document_path(digest), protocol.DOCUMENT_LIMIT, what)
        if not digest.matches(body):
            raise DigestMismatch(
                f"{what} was received with another digest",
                hint=f"check the store at {self._authority}: imagecache check",
            )
        return body

    async def layer(self, name: LayerName, offset: int, target: memoryview) -> None:
        what, end = f"layer image {name}", offset + len(target)
        part, mark, attempts = _Part(target), 0, self._attempts()
        while part.left:
            headers = {"Range": f"bytes={offset + part.filled}-{end - 1}"}
            try:
                await self._ask(
                    protocol.layer_path(name),
                    what,
                    lambda response: self._take_part(response, what, part, offset),
                    headers,
                )
            except Retryable as again:
                if part.filled - mark >= _PROGRESS:
                    mark = part.filled
                    attempts.progress()
                await attempts.wait(again)

    async def block(self, name: LayerName, number: int, target: memoryview) -> BlockRead:
        what = f"block {number} of layer image {name}"
        attempts = Attempts(_BLOCK_TRIES, self._settings.backoff, self._settings.sleep)
        return await attempts.run(
            lambda: self._ask(
                protocol.block_path(name, number),
                what,
                lambda response: self._take_block(response, what, target),
                {"Accept-Encoding": f"{protocol.ZSTD}, identity"},
            )
        )

    def _take_block(self, response: http.client.HTTPResponse, what: str, target: memoryview) -> BlockRead:
        packed = response.headers.get("Content-Encoding", "identity") == protocol.ZSTD
        part = _Part(target)
        announced = response.length
        if announced is None or announced > len(target):
            raise StoreError(f"{self._host} announced {announced} bytes for {what}, which has {len(target)} at most")
        if not packed and announced < len(target):
            raise StoreCorrupt(f"{what} has {announced} bytes in the store, not {len(target)}")
        part.fill(response)
        if part.filled < announced:
            raise Retryable(StoreUnreachable(f"{what} ended after {part.filled} of {announced} bytes"))
        response.read(1)  # the end of the response, so that the connection is used again
        return BlockRead(part.filled, packed)

    def _take_part(self, response: http.client.HTTPResponse, what: str, part: _Part, offset: int) -> None:
        """One response: as many bytes as come, never more than were asked for."""
        at, end = offset + part.filled, offset + len(part.target)
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {at}-"):
            raise StoreError(f"{self._host} sent another range of {what} than was asked for")
        if response.length is not None and response.length < part.left:
            raise StoreCorrupt(f"{what} ends at {at + response.length} in the store, not at {end}")
        part.fill(response)
        if part.left:
            done = len(part.target) - part.left
            raise Retryable(StoreUnreachable(f"{what} ended after {done} of {end} bytes: the connection broke"))
        if response.read(1):
            raise StoreError(f"{self._host} sent more of {what} than was asked for")

    async def building(self, bundle_id: str, architecture: str) -> tuple[LayerName, ...]:
        protocol.check_bundle_id(bundle_id)
        path = protocol.build_path(bundle_id, protocol.check_architecture(architecture))
        body = await self._whole(path, protocol.BUNDLE_LIMIT, f"the build of {bundle_id}")
        return await asyncio.to_thread(protocol.decode_names, body)

    async def partial(self, name: LayerName, offset: int, target: memoryview) -> PartialRead:
        what = f"layer image {name}"
        headers = {"Range": f"bytes={offset}-{offset + len(target) - 1}"}
        return await self._attempts().run(
            lambda: self._ask(
                protocol.partial_path(name),
                what,
                lambda response: self._take_partial(response, what, offset, target),
                headers,
                also=frozenset({416, 503}),
            )
        )

    def _take_partial(
        self, response: http.client.HTTPResponse, what: str, offset: int, target: memoryview
    ) -> PartialRead:
        if response.status == 503:
            response.read(_PROBLEM_LIMIT)
            raise self._unreachable("it is busy")  # no retry here: prefetching must not add load
        if response.status == 416:
            response.read(_PROBLEM_LIMIT)
            return PartialRead(0, protocol.parse_no_range(response.headers.get("Content-Range", "")))
        found = protocol.parse_content_range(response.headers.get("Content-Range", ""))
        if response.status != 206 or found is None or found[0] != offset or found[1] > offset + len(target):
            raise StoreError(f"{self._host} sent another range of {what} than was asked for")
        part = _Part(target[: found[1] - offset])
        part.fill(response)
        if part.left or response.read(1):
            raise Retryable(StoreUnreachable(f"{what} was sent with more or fewer bytes than announced"))
        return PartialRead(len(part.target), found[2])

    async def _whole(self, path: str, bound: int, what: str) -> bytes:
        def receive(response: http.client.HTTPResponse) -> bytes:
            body = response.read(bound + 1)
            if len(body) > bound:
                raise LimitExceeded(f"{what} has more than {bound} bytes, which is the limit")
            return body

        return await self._attempts().run(lambda: self._ask(path, what, receive))

    def _attempts(self) -> Attempts:
        return Attempts(self._settings.attempts, self._settings.backoff, self._settings.sleep)

    async def _ask(
        self,
        path: str,
        what: str,
        receive: Receive[_T],
        headers: Mapping[str, str] | None = None,
        *,
        also: frozenset[int] = frozenset(),
    ) -> _T:
        """One request, in a thread; ``receive`` gets responses with 200, 206 and the statuses in ``also``.

        A cancellation aborts the request, and does not wait for the thread.
        """
        exchange = Exchange()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: self._get(exchange, path, what, receive, headers or {}, also)
            )
        except asyncio.CancelledError:
            exchange.abort()
            raise

    def _get(
        self,
        exchange: Exchange,
        path: str,
        what: str,
        receive: Receive[_T],
        headers: Mapping[str, str],
        also: frozenset[int],
    ) -> _T:
        """What ``receive`` makes of the response. Raises Retryable, StoreError, and what ``receive`` raises."""

        def checked(response: http.client.HTTPResponse) -> _T:
            if response.status not in {200, 206} | also:
                raise self._refusal(response.status, response.read(_PROBLEM_LIMIT), what)
            return receive(response)

        sent = {
            "User-Agent": f"imagecache/{__version__}",
            "Accept-Encoding": "identity",
            **headers,
            "Authorization": f"Bearer {self._token()}",
        }
        try:
            return self._transport.get(exchange, self._context(), f"{self._base}/{path}", sent, checked)
        except ssl.SSLCertVerificationError as error:
            raise StoreRefused(
                f"the certificate of {self._host} is not trusted",
                hint=f"{self._settings.ca_file} must hold the CA that signed it",
            ) from error
        except http.client.HTTPException:  # not chained: its text may repeat what the server wrote
            raise Retryable(self._unreachable("the response is malformed")) from None
        except OSError as error:
            raise Retryable(self._unreachable(type(error).__name__)) from error

    def _unreachable(self, why: str) -> StoreUnreachable:
        return StoreUnreachable(
            f"the store at {self._authority} does not answer ({why})",
            hint="it is retried; check that the controller runs and that this node can reach it",
        )

    def _refusal(self, status: int, body: bytes, what: str) -> ImageCacheError | Retryable:
        reason = protocol.problem_of(body).reason
        if status == 403 and reason == protocol.NOT_SELECTED:
            return StoreRefused(
                f"the store at {self._authority} does not give this node {what}: it is of a private image",
                hint="an ImageCache with that image has to select this node (imagecache.dev/node-selector)",
            )
        if status in {401, 403}:
            return StoreRefused(
                f"the store at {self._authority} refused this node's token ({status})",
                hint="the agent's ServiceAccount must be one that the controller serves, with its audience",
            )
        permanent = protocol.permanent_error(reason)
        if permanent is not None:
            return permanent(f"the store at {self._authority} answered {reason} for {what}")
        if status >= 500 or status in {408, 429}:
            return Retryable(self._unreachable(f"HTTP status {status}"))
        return StoreError(f"the store at {self._authority} answered {status} for {what}")

    def _token(self) -> str:
        path = self._settings.token_file
        try:
            with path.open() as file:
                token = file.read(_TOKEN_LIMIT).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreRefused(f"{path} cannot be read: {type(error).__name__}", hint=_TOKEN_HINT) from error
        if not token or not token.isascii() or not token.isprintable():
            raise StoreRefused(f"{path} holds no token", hint=_TOKEN_HINT)
        return token

    def _context(self) -> ssl.SSLContext:
        """Trusts the CA bundle as it is now, and nothing else."""
        path = self._settings.ca_file
        try:
            found = file_version(path)
            if self._trust is None or self._trust[0] != found:
                self._trust = found, ssl.create_default_context(cafile=path)
        except (OSError, ValueError) as error:
            raise StoreRefused(f"cannot use the authorities in {path}: {error}", hint="the file must be PEM") from error
        return self._trust[1]


_TOKEN_HINT = "mount a projected ServiceAccount token there"  # noqa: S105 - words about one


def _endpoint(settings: ClientSettings) -> tuple[Endpoint, str]:
    """And the prefix of every path. Raises InvalidSetting."""
    try:
        url = urlsplit(settings.url)
        host, port = url.hostname, url.port or 443
    except ValueError:
        host = None
    if not host or url.scheme != "https":
        raise InvalidSetting(f"the store's address {settings.url!r} is not https://host:port")
    name = settings.name or host
    return Endpoint(host, port, name, settings.connect_timeout, settings.read_timeout), url.path.rstrip("/")
