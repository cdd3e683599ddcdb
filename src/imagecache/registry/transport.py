"""One HTTP request: connections, redirects by hand, bounded answers, foreign exceptions translated.

Secrets (Authorization, headers of hosts.toml, client certificates) are sent to their own host and to no other: after a
redirect to another scheme, host or port they are dropped, also when a later redirect leads back. A registry sends a
client no further than to where it is itself, and never from HTTPS to plain HTTP. It must not decide whether to retry,
and must not know what is requested.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import aiohttp
from yarl import URL

from imagecache.backoff import Retryable
from imagecache.digest import Digest
from imagecache.errors import ImageCacheError, InvalidSetting, LimitExceeded, ProtocolViolation, RegistryUnavailable
from imagecache.limits import Limits
from imagecache.registry import content_encoding
from imagecache.registry.address import Place, Reach
from imagecache.registry.config import RegistryConfig
from imagecache.registry.connector import Connector, Resolver, out_of_reach, within
from imagecache.registry.endpoint import Endpoint, Trust, host_of, literal, with_user_lists
from imagecache.registry.http_errors import no_registry, proxy_error, speaks_plain_http, transport_error
from imagecache.registry.pace import pieces
from imagecache.registry.tls_context import tls_context
from imagecache.telemetry.log import get_logger

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PROXY_REFUSES = 407
_FOREIGN = (aiohttp.ClientError, TimeoutError, ConnectionError, ssl.SSLError)
_log = get_logger(__name__)


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
    follow: bool = True
    """Else a redirect is an answer like any other."""


class Transport:
    """Connections of one client; an asynchronous context manager."""

    def __init__(self, config: RegistryConfig) -> None:
        self._config = config
        self._contexts: dict[Trust, ssl.SSLContext] = {}
        self._plain: set[str] = set()
        """Hosts on loopback that speak plain HTTP: found out once, not for every request."""
        self._places: dict[str, Place] = {}
        """Where the registries themselves are, by host, as connections to them have found it."""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        config = self._config
        self._session = aiohttp.ClientSession(
            # No decompression: a digest is that of the bytes on the wire. No cookies: they would carry state from one
            # repository to the next.
            connector=Connector(
                Resolver(config.names(), config.place_of), config.place_of, limit_per_host=config.connections
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=config.read_buffer,
            headers={"User-Agent": config.user_agent, "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @contextlib.asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer after redirects, closed at the end. Raises Retryable or RegistryError, also while it is read."""
        response = await self._follow(request)
        try:
            with self._telling(request.endpoint, host_of(response.url)):
                yield response
        finally:
            if response.content.at_eof():  # the connection is reusable only when nothing of this answer is left in it
                response.release()
            else:
                response.close()

    @contextlib.contextmanager
    def hiding(self, host: str, server: str, unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """For a discreet client: whatever goes wrong in the block with ``server`` is one error, about ``host``.

        It is tried again always, and after the same pauses: neither may tell what has happened.
        """
        try:
            yield
        except (Retryable, ImageCacheError) as error:
            known = error.error if isinstance(error, Retryable) else error
            hidden = no_registry(host)
            # what our own files say wrongly is no answer of anybody
            ours = isinstance(known, InvalidSetting) or known.message == hidden.message
            if not self._config.discreet or ours or unless():
                raise
            _log.warning("no answer of a registry", host=host, server=server, reason=known.reason, problem=str(known))
            raise (type(error) if isinstance(error, Retryable) else Retryable)(hidden) from error

    @contextlib.contextmanager
    def _telling(self, endpoint: Endpoint, host: str) -> Iterator[None]:
        """Translated, and without a word about a server that the registry has chosen."""
        with contextlib.ExitStack() as stack:
            if host != endpoint.host:
                stack.enter_context(self.hiding(endpoint.host, host))
            stack.enter_context(translated(host))
            yield

    async def _follow(self, request: Request) -> aiohttp.ClientResponse:
        url, at_home = self._scheme(request.url), True
        deadline = asyncio.get_running_loop().time() + self._config.limits.answer_time
        for _ in range(self._config.limits.redirects + 1):
            at_home = at_home and _origin(url) == _origin(self._scheme(request.url))
            with self._telling(request.endpoint, host_of(url)):
                async with asyncio.timeout_at(deadline):
                    response = await self._answer(request, url, at_home=at_home)
                url = self._scheme(url) if at_home else url
                if response.status == _PROXY_REFUSES:
                    response.close()
                    raise proxy_error(response.status, host_of(url))
                # Redirects are followed by hand: aiohttp would keep headers of ours that are for the first host only.
                location = response.headers.get("Location") if response.status in _REDIRECTS else None
                if location is None or request.form is not None or not request.follow:
                    return response
                response.close()
                url = _target(url, location)
        raise ProtocolViolation(f"{host_of(request.url)} redirects more than {self._config.limits.redirects} times")

    async def _answer(self, request: Request, url: URL, *, at_home: bool) -> aiohttp.ClientResponse:
        """Asked again in plain HTTP where the registry speaks nothing else."""
        try:
            return await self._once(request, url, at_home=at_home)
        except aiohttp.ClientError as error:
            if not (at_home and request.endpoint.plain_fallback and speaks_plain_http(error)):
                raise
        self._plain.add(request.endpoint.host)
        return await self._once(request, self._scheme(request.url), at_home=at_home)

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
        proxy, reach = self._config.proxies.of(url), self._reach(endpoint, url)
        with within(None if proxy else reach):
            response = await self._session.request(
                method if request.form is None else "POST",
                url,
                headers=headers,
                data=request.form,
                ssl=self._context(endpoint, url) if url.scheme == "https" else True,
                proxy=proxy,
                allow_redirects=False,
                timeout=self._timeout(endpoint),
            )
        if reach.own and reach.connected is not None:
            self._places[endpoint.host] = reach.connected
        return response

    def _reach(self, endpoint: Endpoint, url: URL) -> Reach:
        """How far the request may go. Raises ProtocolViolation for one that shows before it is made that it may not."""
        host = host_of(url)
        own, listed = host == endpoint.host, host in self._config.listed
        if url.scheme == "http" and not (own or listed):
            raise ProtocolViolation(
                f"{endpoint.host} sends us to {host} over plain HTTP",
                hint=f"it must name an https address, or an administrator adds {host} to insecure_registries",
            )
        reach = Reach(own=own, listed=listed, registry=self._places.get(endpoint.host, Place.PUBLIC))
        address = literal(host)  # the only thing that is known of a server behind a proxy
        if address is not None and not reach.allows(self._config.place_of(str(address))):
            raise out_of_reach(host)
        return reach

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
        # No total: a layer may take hours. A server that stalls is caught by sock_read, one that drips by ``pieces``.
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


async def read_body(
    response: aiohttp.ClientResponse, limits: Limits, bound: int, what: str, digest: Digest | None = None
) -> bytes:
    """The whole answer, without an encoding that it may have for the way.

    Raises LimitExceeded when it is longer than ``bound`` bytes, ProtocolViolation for an encoding other than gzip,
    Retryable when it comes too slowly.

    Args:
        response: to read from.
        limits: for the pace.
        bound: of the answer, and of what it decodes to.
        what: for messages.
        digest: that it should have, when that is known; it is not checked.
    """
    too_long = LimitExceeded(f"{what} has more than {bound} bytes, which is the limit")
    if response.content_length is not None and response.content_length > bound:
        raise too_long
    body = bytearray()
    async with contextlib.aclosing(pieces(response, host_of(response.url), what, limits)) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > bound:
                raise too_long
    return content_encoding.stored(bytes(body), response.headers.get("Content-Encoding", ""), bound, what, digest)


async def read_start(response: aiohttp.ClientResponse, bound: int) -> bytes:
    """What comes first of an error answer; empty when reading it fails. Nobody waits for the rest."""
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
    if url.scheme == "https" and target.scheme == "http":
        raise ProtocolViolation(
            f"{host_of(url)} redirects from HTTPS to plain HTTP", hint="it must redirect to an https address"
        )
    return target
