"""How requests for one repository at one server are authorised: not at all, with an anonymous token, or as the user.

Whether an image is private is found out by trying: first without the credential, and with it only after the registry
has refused. The outcome is kept for the next requests, and concurrent requests share one token. It must not show a
token or a credential.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable

from imagecache.errors import ImageCacheError
from imagecache.registry.challenge import Challenge, find
from imagecache.registry.credentials import Credential, Credentials, credential_host
from imagecache.registry.token_server import Token, TokenServer

_DENIED = frozenset({401, 403, 404, 429})
"""Answers that a credential may change: some registries hide private repositories as absent, some limit strangers."""


class _Mode(enum.Enum):
    OPEN = enum.auto()
    ANONYMOUS = enum.auto()
    CREDENTIAL = enum.auto()


class Authorizer:
    """The state of one endpoint and repository. Call ``authorization`` before a request, ``refused`` after an error."""

    def __init__(self, tokens: TokenServer, credentials: Credentials) -> None:
        self._tokens = tokens
        self._credentials = credentials
        self._lock = asyncio.Lock()
        self._mode = _Mode.OPEN
        self._challenge: Challenge | None = None
        self._token: Token | None = None
        self._credential: Credential | None = None
        self._rejected: Credential | None = None
        """A credential that was not accepted."""
        self._proven: str | None = None
        """The last header that the registry accepted."""

    @property
    def private(self) -> bool:
        """Whether the repository needs the user's credential."""
        return self._mode is _Mode.CREDENTIAL

    async def authorization(self) -> str | None:
        """The Authorization header for the next request. A token that expires is renewed first."""
        async with self._lock:
            if self._token is not None and self._tokens.config.clock.monotonic() >= self._token.expires:
                await self._renew()
            return self._header()

    def accepted(self, sent: str | None) -> None:
        """Note that the registry accepted this header."""
        self._proven = sent

    async def refused(self, status: int, challenges: Iterable[Challenge], sent: str | None) -> bool:
        """Learn from an error answer; True when the request should be sent again."""
        if status not in _DENIED:
            return False
        async with self._lock:
            if self._header() != sent:
                return True  # a concurrent request has changed the header meanwhile: try that one
            if status == 401 and sent is not None and sent == self._proven:
                # The token has worked and no longer does: it expired early, or the registry restarted. Once only, so
                # that a registry that never accepts a fresh token does not keep us busy.
                self._proven = None
                return await self._renew()
            return await self._escalate(status, tuple(challenges))

    def hint(self) -> str:
        """What to do about a 401: there is no credential, or it was not accepted."""
        host = credential_host(self._tokens.endpoint.host)
        credential = self._credential or self._rejected
        if credential is None:
            return f"no credential for {host} was found; name one in spec.imagePullSecrets, or docker login {host}"
        return f"the credential for {host} from {credential.source or 'the settings'} was not accepted; renew it"

    def _header(self) -> str | None:
        if self._token is not None:
            return f"Bearer {self._token.value}"
        return self._credential.basic() if self._mode is _Mode.CREDENTIAL and self._credential else None

    async def _renew(self) -> bool:
        """Fetch a new token in the same way as the last one. False when there is none."""
        if self._challenge is None or self._challenge.scheme != "bearer":
            return False
        self._token = await self._tokens.fetch(self._challenge, self._credential)
        return self._token is not None

    async def _escalate(self, status: int, challenges: tuple[Challenge, ...]) -> bool:
        if self._mode is _Mode.OPEN and status == 401:
            # Bearer first: with it, what is public needs no credential.
            self._challenge = find(challenges, "bearer") or find(challenges, "basic")
            if self._challenge is not None and self._challenge.scheme == "bearer":
                self._mode = _Mode.ANONYMOUS
                self._token = await self._tokens.fetch(self._challenge, None)
                if self._token is not None:
                    return True
        # No challenge: the registry did not say how to authenticate. With the credential: there is nothing left to try.
        if self._challenge is None or self._mode is _Mode.CREDENTIAL:
            return False
        return await self._use_credential(self._challenge, certain=status in {401, 403})

    async def _use_credential(self, challenge: Challenge, *, certain: bool) -> bool:
        """Switch to the user's credential.

        After a 404 or a 429 it is not certain that a credential is the remedy: then a failure changes nothing.
        """
        host = credential_host(self._tokens.endpoint.host)
        credential = await self._credentials.credentials_for(host, self._tokens.repository)
        if credential is None:
            return False
        token: Token | None = None
        if challenge.scheme == "bearer":
            try:
                token = await self._tokens.fetch(challenge, credential)
            except ImageCacheError:
                if certain:
                    raise
        # Basic needs a user; an identity token is for token servers only.
        if token is None and (challenge.scheme == "bearer" or not credential.username):
            self._rejected = credential
            return False
        self._mode, self._credential, self._token = _Mode.CREDENTIAL, credential, token
        return True
