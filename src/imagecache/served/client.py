"""``fetch.remote_store.RemoteStore`` over HTTPS: a node's view of a ``server`` somewhere in the cluster.

Broken connections are resumed by range from where they stopped; nothing of what the server writes is repeated in an
error except the names of our own errors. CA bundle and token are files that Kubernetes replaces: the token is read for
each request, the bundle when it has changed. Requests are made in threads (``transport``). It must not believe layers:
the caller hashes them.
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
from imagecache.served import wire
from imagecache.served.transport import Endpoint, Exchange, Transport
from imagecache.store.model import Bundle, LayerName

_PROGRESS = 1 << 20
"""Bytes that count as progress; fewer do not earn new tries."""
_PROBLEM_LIMIT = 64 << 10
_TOKEN_LIMIT = 64 << 10
_PIECE = 256 << 10
"""Bytes read in one go: as many may have to be fetched again when a connection breaks."""
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
    """In the server's certificate, when the URL has an address; empty: the URL's own host."""
    connections: int = 16
    """And threads; who finds none free waits."""
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    """Longest silence in the middle of an answer."""
    attempts: int = 5
    """Tries of one request, or of one range without progress."""
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


@dataclass(slots=True)
class _Part:
    """Memory that is being filled from its beginning, by one thread at a time."""

    target: memoryview
    filled: int = 0

    @property
    def left(self) -> int:
        return len(self.target) - self.filled

    def fill(self, response: http.client.HTTPResponse) -> None:
        """Until it is full or the answer ends."""
        while self.left and (count := response.readinto(self.target[self.filled : self.filled + _PIECE])):
            self.filled += count


class ServedStore:
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

    async def bundle(self, bundle_id: str) -> Bundle:
        wire.check_bundle_id(bundle_id)
        body = await self._whole(wire.bundle_path(bundle_id), wire.BUNDLE_LIMIT, f"bundle {bundle_id}")
        return await asyncio.to_thread(wire.decode_bundle, body, bundle_id)

    async def document(self, digest: Digest) -> bytes:
        what = f"document {digest}"
        body = await self._whole(wire.document_path(digest), wire.DOCUMENT_LIMIT, what)
        if not digest.matches(body):
            raise DigestMismatch(f"{what} has another digest when it arrives", hint="check the store that serves it")
        return body

    async def layer(self, name: LayerName, offset: int, target: memoryview) -> None:
        what, end = f"layer image {name}", offset + len(target)
        part, mark, attempts = _Part(target), 0, self._attempts()
        while part.left:
            headers = {"Range": f"bytes={offset + part.filled}-{end - 1}"}
            try:
                await self._ask(
                    wire.layer_path(name), what, lambda response: self._take_part(response, what, part, offset), headers
                )
            except Retryable as again:
                if part.filled - mark >= _PROGRESS:
                    mark = part.filled
                    attempts.progress()
                await attempts.wait(again)

    def _take_part(self, response: http.client.HTTPResponse, what: str, part: _Part, offset: int) -> None:
        """One answer: as many bytes as come, never more than were asked for."""
        at, end = offset + part.filled, offset + len(part.target)
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {at}-"):
            raise StoreError(f"{self._host} answers with another range of {what} than was asked for")
        if response.length is not None and response.length < part.left:
            raise StoreCorrupt(f"{what} ends at {at + response.length} in the store, not at {end}")
        part.fill(response)
        if part.left:
            done = len(part.target) - part.left
            raise Retryable(StoreUnreachable(f"{what} ends after {done} of {end} bytes: the connection is cut"))
        if response.read(1):
            raise StoreError(f"{self._host} sends more of {what} than was asked for")

    async def building(self, bundle_id: str) -> tuple[LayerName, ...]:
        wire.check_bundle_id(bundle_id)
        body = await self._whole(wire.build_path(bundle_id), wire.BUNDLE_LIMIT, f"the build of {bundle_id}")
        return await asyncio.to_thread(wire.decode_names, body)

    async def partial(self, name: LayerName, offset: int, target: memoryview) -> PartialRead:
        what = f"layer image {name}"
        headers = {"Range": f"bytes={offset}-{offset + len(target) - 1}"}
        return await self._attempts().run(
            lambda: self._ask(
                wire.growing_path(name),
                what,
                lambda response: self._take_grown(response, what, offset, target),
                headers,
                also=frozenset({416, 503}),
            )
        )

    def _take_grown(
        self, response: http.client.HTTPResponse, what: str, offset: int, target: memoryview
    ) -> PartialRead:
        if response.status == 503:
            response.read(_PROBLEM_LIMIT)
            raise self._unreachable("it has others to serve first")  # who follows a build must not insist
        if response.status == 416:
            response.read(_PROBLEM_LIMIT)
            return PartialRead(0, wire.parse_no_range(response.headers.get("Content-Range", "")))
        found = wire.parse_content_range(response.headers.get("Content-Range", ""))
        if response.status != 206 or found is None or found[0] != offset or found[1] > offset + len(target):
            raise StoreError(f"{self._host} answers with another range of {what} than was asked for")
        part = _Part(target[: found[1] - offset])
        part.fill(response)
        if part.left or response.read(1):
            raise Retryable(StoreUnreachable(f"{what} comes with more or fewer bytes than announced"))
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
        """One request, in a thread; ``also`` are statuses that ``receive`` takes beside those of success.

        A cancellation ends it soon, and does not wait for that.
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
        """What ``receive`` makes of a successful answer. Raises Retryable, StoreError, and what ``receive`` raises."""

        def answered(response: http.client.HTTPResponse) -> _T:
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
            return self._transport.get(exchange, self._context(), f"{self._base}/{path}", sent, answered)
        except ssl.SSLCertVerificationError as error:
            raise StoreRefused(
                f"the certificate of {self._host} is not trusted",
                hint=f"{self._settings.ca_file} must hold the authority that signed it",
            ) from error
        except http.client.HTTPException:  # it may hold what the server wrote
            raise Retryable(self._unreachable("the answer is malformed")) from None
        except OSError as error:
            raise Retryable(self._unreachable(type(error).__name__)) from error

    def _unreachable(self, why: str) -> StoreUnreachable:
        return StoreUnreachable(
            f"the store at {self._authority} does not answer ({why})",
            hint="it is tried again; does the controller run, and may this node reach it?",
        )

    def _refusal(self, status: int, body: bytes, what: str) -> ImageCacheError | Retryable:
        reason = wire.problem_of(body).reason
        if status in {401, 403}:
            return StoreRefused(
                f"the store at {self._authority} refuses this node's token ({status})",
                hint="the agent's ServiceAccount must be one that the controller serves, with its audience",
            )
        final = wire.final_error(reason)
        if final is not None:
            return final(f"the store at {self._authority} says {reason} for {what}")
        if status >= 500 or status in {408, 429}:
            return Retryable(self._unreachable(f"HTTP status {status}"))
        return StoreError(f"the store at {self._authority} answers {status} for {what}")

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
        """Trusts the bundle as it is now, and nothing else."""
        path = self._settings.ca_file
        try:
            found = file_version(path)
            if self._trust is None or self._trust[0] != found:
                self._trust = found, ssl.create_default_context(cafile=path)
        except (OSError, ValueError) as error:
            raise StoreRefused(f"cannot use the authorities in {path}: {error}", hint="it is PEM") from error
        return self._trust[1]


_TOKEN_HINT = "mount a projected ServiceAccount token there"  # noqa: S105 - words about one


def _endpoint(settings: ClientSettings) -> tuple[Endpoint, str]:
    """And the path that comes before every other. Raises InvalidSetting."""
    try:
        url = urlsplit(settings.url)
        host, port = url.hostname, url.port or 443
    except ValueError:
        host = None
    if not host or url.scheme != "https":
        raise InvalidSetting(f"the store's address {settings.url!r} is not https://host:port")
    name = settings.name or host
    return Endpoint(host, port, name, settings.connect_timeout, settings.read_timeout), url.path.rstrip("/")
