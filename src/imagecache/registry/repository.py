"""One server and one repository: requests of the distribution API, with authentication and translated statuses.

Source: OCI distribution-spec v1.1, "Pull". It must not choose between servers, and must not trust bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

import aiohttp

from imagecache.backoff import Retryable
from imagecache.errors import AccessDenied, ImageNotFound, RegistryError, Unauthenticated
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


class Repository:
    """One repository at one server."""

    def __init__(
        self, transport: Transport, config: RegistryConfig, endpoint: Endpoint, authorizer: Authorizer
    ) -> None:
        self._transport = transport
        self._config = config
        self.endpoint = endpoint
        self.authorizer = authorizer

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
        rounds, tried = 0, list[Credential]()
        while rounds < _ROUNDS + self.authorizer.known:
            rounds += 1
            authorization = await self.authorizer.authorization()
            url = self.endpoint.url(path)
            request = Request(self.endpoint, url, dict(headers or {}), authorization, head=head)
            async with self._transport.open(request) as response:
                if response.status in {200, 206}:
                    self.authorizer.accepted(authorization)
                    yield response
                    return
                body = await read_start(response, self._config.limits.error_body)
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", ()))
            if not await self.authorizer.refused(response.status, challenges, authorization, tried):
                break
        raise self._error(response, body, what, tried)

    def _error(
        self, response: aiohttp.ClientResponse, body: bytes, what: str, tried: Sequence[Credential]
    ) -> Retryable | RegistryError:
        after = retry_after(response.headers.get("Retry-After"), self._config.clock.now())
        host = host_of(response.url)
        error = status_error(response.status, host, what, error_code(body), after)
        if isinstance(error, Unauthenticated):
            error.hint = self.authorizer.hint(tried)
        elif tried and isinstance(error, AccessDenied | ImageNotFound):
            error.hint = f"{error.hint}; tried: {', '.join(sources(tried))}"
        return Retryable(error, after) if may_try_again(response.status) else error
