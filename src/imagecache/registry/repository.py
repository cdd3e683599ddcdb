"""One server and one repository: requests of the distribution API, with authentication and translated statuses.

Source: OCI distribution-spec v1.1, "Pull". It must not choose between servers, and must not trust bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace

import aiohttp

from imagecache.backoff import Retryable
from imagecache.errors import (
    AccessDenied,
    ImageCacheError,
    ImageNotFound,
    NextStep,
    RegistryError,
    Unauthenticated,
)
from imagecache.registry.authorizer import Authorizer
from imagecache.registry.challenge import parse_challenges
from imagecache.registry.config import RegistryConfig
from imagecache.registry.credentials import Credential, sources
from imagecache.registry.endpoint import Endpoint, host_of
from imagecache.registry.http_errors import error_code, may_try_again, retry_after, status_error
from imagecache.registry.transport import Request, Transport, read_start

_ROUNDS = 6
"""Requests until authentication must succeed, beside one for each credential. Two are needed: without a header, with an
anonymous token. A third renews one that expired in between; the rest is reserve, so that a registry cannot keep us
busy."""


_API_VERSION = "Docker-Distribution-Api-Version"
"""The header by which nearly every registry says that it is one (distribution-spec, "Legacy Docker support")."""
_FOUND = frozenset({200, 206})
_ELSEWHERE = frozenset({301, 302, 303, 307, 308})


class Repository:
    """One repository at one server."""

    def __init__(
        self, transport: Transport, config: RegistryConfig, endpoint: Endpoint, authorizer: Authorizer
    ) -> None:
        self._transport = transport
        self._config = config
        self._is_registry = False
        """The server has shown to be one."""
        self.endpoint = endpoint
        self.authorizer = authorizer
        self.asked_blobs = False
        """Something of a blob was read."""

    @property
    def trusted(self) -> bool:
        """What it says comes from it: its certificate is verified, or an administrator has listed it all the same."""
        return is_trusted(self.endpoint, self._config)

    def showed(self) -> None:
        """It has answered as only a registry does."""
        self._is_registry = True

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """For a discreet client, errors of the block tell nothing of a server that has not shown to be a registry."""
        with self._transport.hiding(self.endpoint.host, self.endpoint.host, unless=lambda: self._is_registry):
            yield

    @contextlib.asynccontextmanager
    async def get(
        self, path: str, what: str, headers: Mapping[str, str] | None = None, *, head: bool = False
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful answer to GET or HEAD (200 or 206). Raises Retryable, RegistryError.

        Args:
            path: below the API's root.
            what: for messages: ``manifest 1.25``.
            headers: of the request.
            head: ask for the headers alone.
        """
        request = Request(self.endpoint, self.endpoint.url(path), dict(headers or {}), head=head)
        with self.telling():
            async with self._authorized(request, path, what) as response:
                yield response

    async def probe(self, path: str, what: str) -> None:
        """Ask whether it would be given, and read nothing. Raises as ``get``."""
        request = Request(self.endpoint, self.endpoint.url(path), head=True, follow=False)
        with self.telling():
            async with self._authorized(request, path, what):
                pass

    @contextlib.asynccontextmanager
    async def _authorized(self, request: Request, path: str, what: str) -> AsyncIterator[aiohttp.ClientResponse]:
        rounds, tried = 0, list[Credential]()
        good = _FOUND if request.follow else _FOUND | _ELSEWHERE
        while rounds < _ROUNDS + self.authorizer.known:
            rounds += 1
            with self._asking_for_tokens():
                authorization = await self.authorizer.authorization()
            async with self._transport.open(replace(request, authorization=authorization)) as response:
                own = host_of(response.url) == self.endpoint.host
                self._is_registry |= own and _API_VERSION in response.headers
                if response.status in good:
                    self.authorizer.accepted(authorization, path)
                    self.asked_blobs |= "/blobs/" in path
                    yield response
                    return
                body = await read_start(response, self._config.limits.error_body)
            code = error_code(body)
            self._is_registry |= own and bool(code)
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", ()))
            with self._asking_for_tokens():
                if not await self.authorizer.refused(response.status, challenges, authorization, tried):
                    break
        with self._telling_of(response):
            raise self._error(response, code, what, tried)

    @contextlib.contextmanager
    def _asking_for_tokens(self) -> Iterator[None]:
        """The token server is whatever the registry has named."""
        try:
            with self._transport.hiding(self.endpoint.host, "a token server"):
                yield
        except Retryable as again:
            cause = again.__cause__
            if isinstance(cause, ImageCacheError) and cause.next_step is NextStep.RETRY:  # it was tried again already
                raise again.error from cause
            raise

    @contextlib.contextmanager
    def _telling_of(self, response: aiohttp.ClientResponse) -> Iterator[None]:
        host = host_of(response.url)
        if host == self.endpoint.host:
            yield
        else:  # where the registry has sent us
            with self._transport.hiding(self.endpoint.host, host):
                yield

    def _error(
        self, response: aiohttp.ClientResponse, code: str, what: str, tried: Sequence[Credential]
    ) -> Retryable | RegistryError:
        after = retry_after(response.headers.get("Retry-After"), self._config.clock.now())
        host = host_of(response.url)
        error = status_error(response.status, host, what, code, after)
        if isinstance(error, Unauthenticated):
            error.hint = self.authorizer.hint(tried)
        elif tried and isinstance(error, AccessDenied | ImageNotFound):
            error.hint = f"{error.hint}; tried: {', '.join(sources(tried))}"
        return Retryable(error, after) if may_try_again(response.status) else error


def is_trusted(endpoint: Endpoint, config: RegistryConfig) -> bool:
    """Whether what a server says comes from it: its certificate is verified, or an administrator lists it."""
    return endpoint.verified or endpoint.host in config.listed
