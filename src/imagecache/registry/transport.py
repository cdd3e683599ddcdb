"""One HTTP request: connections, redirects by hand, bounded answers, foreign exceptions translated.

Secrets (Authorization, headers of hosts.toml, client certificates) are sent to their own host and to no other: after a
redirect to another scheme, host or port they are dropped, also when a later redirect leads back. It must not decide
whether to retry, and must not know what is requested.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import aiohttp
from yarl import URL

from imagecache.digest import Digest
from imagecache.errors import LimitExceeded, ProtocolViolation, RegistryUnavailable
from imagecache.registry import content_encoding
from imagecache.registry.config import RegistryConfig
from imagecache.registry.endpoint import Endpoint, Trust, host_of, with_user_lists
from imagecache.registry.http_errors import proxy_error, speaks_plain_http, transport_error
from imagecache.registry.tls_context import tls_context

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PROXY_REFUSES = 407
_FOREIGN = (aiohttp.ClientError, TimeoutError, ConnectionError, ssl.SSLError)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to an endpoint, or to a server that the endpoint named."""

    endpoint: Endpoint
    url: URL
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    """Sent by POST. Redirects are not followed then: the form holds a secret."""
    head: bool = False
    """HEAD: the headers of an answer, without the body."""


class Transport:
    """Connections of one client; an asynchronous context manager."""

    def __init__(self, config: RegistryConfig) -> None:
        self._config = config
        self._contexts: dict[Trust, ssl.SSLContext] = {}
        self._plain: set[str] = set()
        """Hosts on loopback that speak plain HTTP: found out once, not for every request."""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # limit=0: the bound is per host, since builds read from several registries. No decompression: a digest is
            # that of the bytes on the wire. No cookies: they would carry state from one repository to the next.
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=self._config.connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=self._config.read_buffer,
            headers={"User-Agent": self._config.user_agent, "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @contextlib.asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer after redirects, closed at the end. Raises Retryable or RegistryError, also while it is read."""
        with translated(host_of(request.url)):
            response = await self._follow(request)
        try:
            with translated(host_of(response.url)):
                yield response
        finally:
            if response.content.at_eof():  # the connection is reusable only when nothing of this answer is left in it
                response.release()
            else:
                response.close()

    async def _follow(self, request: Request) -> aiohttp.ClientResponse:
        url, at_home = self._scheme(request.url), True
        for _ in range(self._config.limits.redirects + 1):
            at_home = at_home and _origin(url) == _origin(self._scheme(request.url))
            try:
                response = await self._once(request, url, at_home=at_home)
            except aiohttp.ClientError as error:
                if not (at_home and request.endpoint.plain_fallback and speaks_plain_http(error)):
                    raise
                self._plain.add(request.endpoint.host)
                url = self._scheme(request.url)
                response = await self._once(request, url, at_home=at_home)
            if response.status == _PROXY_REFUSES:
                response.close()
                raise proxy_error(response.status, host_of(url))
            # Redirects are followed by hand: aiohttp would keep headers of ours that are for the first host only.
            if response.status not in _REDIRECTS or "Location" not in response.headers or request.form is not None:
                return response
            response.close()
            url = _target(url, response.headers["Location"])
        raise ProtocolViolation(f"{host_of(request.url)} redirects more than {self._config.limits.redirects} times")

    def _scheme(self, url: URL) -> URL:
        if url.scheme == "https" and host_of(url) in self._plain:
            # By hand: yarl's with_scheme would normalise the path, and a signed address must arrive as it was written.
            return URL(f"http://{url.raw_authority}{url.raw_path_qs}", encoded=True)
        return url

    async def _once(self, request: Request, url: URL, *, at_home: bool) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("RegistryClient is used outside of its context manager")
        endpoint = request.endpoint
        headers = dict(request.headers)
        if at_home and host_of(url) == endpoint.host:
            headers.update(endpoint.headers)
        if at_home and request.authorization is not None:
            headers["Authorization"] = request.authorization
        method = "HEAD" if request.head else "GET"
        return await self._session.request(
            method if request.form is None else "POST",
            url,
            headers=headers,
            data=request.form,
            ssl=self._context(endpoint, url) if url.scheme == "https" else True,
            proxy=self._config.proxies.of(url),
            allow_redirects=False,
            timeout=self._timeout(endpoint),
        )

    def _context(self, endpoint: Endpoint, url: URL) -> ssl.SSLContext:
        """The endpoint's own trust for its host, the user's list of insecure hosts for every other one."""
        if host_of(url) == endpoint.host:
            trust = endpoint.trust
        else:
            other = Endpoint(scheme=url.scheme, host=host_of(url))
            trust = with_user_lists(other, frozenset(), self._config.insecure).trust
        trust = replace(trust, authorities=(*self._config.authorities, *trust.authorities))
        if trust not in self._contexts:
            self._contexts[trust] = tls_context(trust)
        return self._contexts[trust]

    def _timeout(self, endpoint: Endpoint) -> aiohttp.ClientTimeout:
        dial = self._config.connect_timeout if endpoint.dial_timeout is None else endpoint.dial_timeout
        if dial < 0:
            raise RegistryUnavailable(  # of this server: the next one may have time
                f"no connection to {endpoint.host} can be made: its dial_timeout in hosts.toml is less than 0",
                hint="remove the dial_timeout, or make it a time like 5s",
            )
        # No total: a layer may take hours. A server that stalls is caught by sock_read.
        return aiohttp.ClientTimeout(total=None, sock_connect=dial, sock_read=self._config.read_timeout)


@contextlib.contextmanager
def translated(host: str) -> Iterator[None]:
    """Convert foreign exceptions of the block to Retryable or RegistryError; chained unless they may show a secret."""
    try:
        yield
    except aiohttp.ClientHttpProxyError as error:
        raise proxy_error(error.status, host) from None
    except _FOREIGN as error:
        ours = transport_error(error, host)
        # These hold the request's headers, or its whole address, which may have a signature in its query.
        shows = isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL)
        raise ours from (None if shows else error)


async def read_body(response: aiohttp.ClientResponse, bound: int, what: str, digest: Digest | None = None) -> bytes:
    """The whole answer, without an encoding that it may have for the way.

    Raises LimitExceeded when it is longer than ``bound`` bytes, ProtocolViolation for an encoding other than gzip.

    Args:
        response: to read from.
        bound: of the answer, and of what it decodes to.
        what: for messages.
        digest: that it should have, when that is known; it is not checked.
    """
    too_long = LimitExceeded(f"{what} has more than {bound} bytes, which is the limit")
    if response.content_length is not None and response.content_length > bound:
        raise too_long
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > bound:
            raise too_long
    return content_encoding.stored(bytes(body), response.headers.get("Content-Encoding", ""), bound, what, digest)


async def read_start(response: aiohttp.ClientResponse, bound: int) -> bytes:
    """The start of an error answer; empty when reading it fails."""
    try:
        return await response.content.read(bound)
    except (aiohttp.ClientError, TimeoutError, ConnectionError):
        return b""


def _origin(url: URL) -> tuple[str, str]:
    return url.scheme, host_of(url)


def _target(url: URL, location: str) -> URL:
    """Where a redirect leads. An address with a user is refused: aiohttp would send it as a credential."""
    try:
        target = url.join(URL(location, encoded=True))
        usable = (
            target.scheme in {"http", "https"} and bool(target.host) and not (target.raw_user or target.raw_password)
        )
    except ValueError:
        usable = False
    if not usable:
        raise ProtocolViolation(f"{host_of(url)} redirects to something that is not an HTTP address")
    return target
