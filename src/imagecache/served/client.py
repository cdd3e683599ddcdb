"""``RemoteStore`` over HTTPS: a node's view of a ``server`` somewhere in the cluster.

Broken connections are resumed by range from where they stopped; nothing of what the server writes is repeated in an
error except the names of our own errors. CA bundle and token are files that Kubernetes replaces: the token is read for
each request, the bundle when it has changed. It must not believe layers: the caller hashes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from imagecache import __version__, errors
from imagecache.digest import Digest
from imagecache.errors import (
    BlobNotFound,
    DigestMismatch,
    InvalidSetting,
    LimitExceeded,
    NotFound,
    StoreCorrupt,
    StoreError,
    StoreRefused,
    StoreUnreachable,
)
from imagecache.served import wire
from imagecache.served.tls import Versions, versions
from imagecache.store.model import LayerName, SnapshotDocument

_PROGRESS = 1 << 20
"""Bytes that count as progress; fewer do not earn new tries."""
_PROBLEM_LIMIT = 64 << 10
_TOKEN_LIMIT = 64 << 10
_REASONS = frozenset({"NotFound", "BlobNotFound", "StoreCorrupt"})


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
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    """Longest silence in the middle of an answer."""
    attempts: int = 5
    """Tries of one request, or of one range without progress."""
    backoff: float = 0.25
    """Wait before the second try; doubles each time, and varies by half."""
    backoff_limit: float = 10.0
    read_buffer: int = 1 << 20
    """Per answer: reading from the socket pauses above twice this."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random


class _Again(Exception):
    """Time may heal this; the error to raise when it does not."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(str(error))
        self.error = error


class ServedStore:
    """Use as an asynchronous context manager; one for a process. Raises InvalidSetting for an address without https."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._url = URL(settings.url)
        if self._url.scheme != "https" or not self._url.host:
            raise InvalidSetting(f"the store's address {settings.url!r} is not https://host:port")
        self._session: aiohttp.ClientSession | None = None
        self._trust: tuple[Versions, ssl.SSLContext] | None = None

    async def __aenter__(self) -> Self:
        timeouts = aiohttp.ClientTimeout(
            total=None, sock_connect=self._settings.connect_timeout, sock_read=self._settings.read_timeout
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._settings.connections),
            timeout=timeouts,
            read_bufsize=self._settings.read_buffer,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"imagecache/{__version__}", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def snapshot(self, snapshot_id: str) -> SnapshotDocument:
        wire.check_snapshot_id(snapshot_id)
        body = await self._whole(wire.snapshot_path(snapshot_id), wire.SNAPSHOT_LIMIT, f"snapshot {snapshot_id}")
        return await asyncio.to_thread(wire.decode_snapshot, body, snapshot_id)

    async def document(self, digest: Digest) -> bytes:
        what = f"document {digest}"
        body = await self._whole(wire.document_path(digest), wire.DOCUMENT_LIMIT, what)
        if not digest.matches(body):
            raise DigestMismatch(f"{what} has another digest when it arrives", hint="check the store that serves it")
        return body

    async def layer(self, name: LayerName, offset: int, length: int) -> AsyncIterator[bytes]:
        position = mark = offset
        end = offset + length
        failures = 0
        while position < end:
            try:
                async with contextlib.aclosing(self._part(name, position, end)) as part:
                    async for chunk in part:
                        position += len(chunk)
                        yield chunk
            except _Again as again:
                if position - mark >= _PROGRESS:
                    mark, failures = position, 0
                failures += 1
                await self._wait(failures, again)

    async def _part(self, name: LayerName, position: int, end: int) -> AsyncGenerator[bytes, None]:
        """One request: as many bytes as come, never more than were asked for."""
        what = f"layer image {name}"
        left = end - position
        async with self._get(wire.layer_path(name), what, {"Range": f"bytes={position}-{end - 1}"}) as response:
            if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {position}-"):
                raise StoreError(f"{self._url.host} answers with another range of {what} than was asked for")
            if response.content_length is not None and response.content_length < left:
                raise StoreCorrupt(f"{what} ends at {position + response.content_length} in the store, not at {end}")
            async for chunk in response.content.iter_any():
                left -= len(chunk)
                if left < 0:
                    raise StoreError(f"{self._url.host} sends more of {what} than was asked for")
                yield chunk
        if left:
            raise _Again(StoreUnreachable(f"{what} ends after {end - left} of {end} bytes: the connection is cut"))

    async def _whole(self, path: str, bound: int, what: str) -> bytes:
        failures = 0
        while True:
            try:
                return await self._once(path, bound, what)
            except _Again as again:
                failures += 1
                await self._wait(failures, again)

    async def _once(self, path: str, bound: int, what: str) -> bytes:
        body = bytearray()
        async with self._get(path, what, {}) as response:
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > bound:
                    raise LimitExceeded(f"{what} has more than {bound} bytes, which is the limit")
        return bytes(body)

    async def _wait(self, failures: int, again: _Again) -> None:
        if failures >= self._settings.attempts:
            raise again.error from again.__cause__
        whole = min(self._settings.backoff_limit, self._settings.backoff * 2.0 ** (failures - 1))
        await self._settings.sleep(whole * (0.5 + self._settings.chance()))

    @contextlib.asynccontextmanager
    async def _get(self, path: str, what: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful answer; foreign exceptions inside the block are translated. Raises _Again, StoreError."""
        if self._session is None:
            raise RuntimeError("ServedStore is used outside of its context")
        authorization = f"Bearer {await asyncio.to_thread(self._token)}"
        context = await asyncio.to_thread(self._context)
        try:
            async with self._session.get(
                self._url.joinpath(*path.split("/")),
                headers={**headers, "Authorization": authorization},
                ssl=context,
                server_hostname=self._settings.name or None,
                allow_redirects=False,
            ) as response:
                if response.status not in {200, 206}:
                    raise self._refusal(response.status, await response.content.read(_PROBLEM_LIMIT), what)
                yield response
        except (aiohttp.ClientSSLError, ssl.SSLCertVerificationError) as error:
            raise StoreRefused(
                f"the certificate of {self._url.host} is not trusted",
                hint=f"{self._settings.ca_file} must hold the authority that signed it",
            ) from error
        except aiohttp.ClientResponseError:  # it holds the request's headers, and so the token
            raise _Again(self._unreachable("the answer is malformed")) from None
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise _Again(self._unreachable(type(error).__name__)) from error

    def _unreachable(self, why: str) -> StoreUnreachable:
        return StoreUnreachable(
            f"the store at {self._url.authority} does not answer ({why})",
            hint="it is tried again; does the controller run, and may this node reach it?",
        )

    def _refusal(self, status: int, body: bytes, what: str) -> StoreError | NotFound | _Again:
        reason = wire.problem_of(body).reason
        if status in {401, 403}:
            return StoreRefused(
                f"the store at {self._url.authority} refuses this node's token ({status})",
                hint="the agent's ServiceAccount must be one that the controller serves, with its audience",
            )
        if reason in _REASONS:
            kind: type[NotFound | BlobNotFound | StoreCorrupt] = getattr(errors, reason)
            return kind(f"the store at {self._url.authority} says {reason} for {what}")
        if status >= 500 or status in {408, 429}:
            return _Again(self._unreachable(f"HTTP status {status}"))
        return StoreError(f"the store at {self._url.authority} answers {status} for {what}")

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
            found = versions(path)
            if self._trust is None or self._trust[0] != found:
                self._trust = found, ssl.create_default_context(cafile=path)
        except (OSError, ValueError) as error:
            raise StoreRefused(f"cannot use the authorities in {path}: {error}", hint="it is PEM") from error
        return self._trust[1]


_TOKEN_HINT = "mount a projected ServiceAccount token there"  # noqa: S105 - words about one
