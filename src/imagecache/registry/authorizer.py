"""How requests for one repository at one server are authorised: not at all, with an anonymous token, or as the user.

Whether an image is private is found out by trying: first without a credential, and with one only after the registry
has refused; then with every one that is for the repository until the registry accepts one, as kubelet does. The outcome
is kept for the next requests, and concurrent requests share one token. What was given for a credential is private only
if strangers were refused: a limit for them says nothing of who may read. It must not show a token or a credential.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable, Sequence

from imagecache.errors import ImageCacheError, RateLimited, RegistryUnavailable
from imagecache.registry.challenge import Challenge, find
from imagecache.registry.credentials import Credential, Credentials, credential_host, sources
from imagecache.registry.token_server import Token, TokenServer

_DENIED = frozenset({401, 403, 404, 429})
"""Answers that a credential may change: some registries hide private repositories as absent, some limit strangers."""


class _Mode(enum.Enum):
    OPEN = enum.auto()
    ANONYMOUS = enum.auto()
    CREDENTIAL = enum.auto()


class Authorizer:
    """The state of one endpoint and repository. Call ``authorization`` before a request, ``refused`` after an error."""

    def __init__(self, tokens: TokenServer, credentials: Credentials, *, safe: bool = True) -> None:
        """``safe``: a credential may be sent to this server; else there is none for it."""
        self._tokens = tokens
        self._credentials = credentials
        self._safe = safe
        self._lock = asyncio.Lock()
        self._mode = _Mode.OPEN
        self._challenge: Challenge | None = None
        self._token: Token | None = None
        self._credential: Credential | None = None
        self._known: Sequence[Credential] | None = None
        """Every credential for the repository, in the order in which they are tried; None until one is needed."""
        self._proven: str | None = None
        """The last header that the registry accepted."""
        self._uncertain = False
        """A credential is used although strangers were not refused: what they asked for was absent, or they are too
        many (404, 429)."""
        self.private = False
        """The registry has given something for the user's credential that it had refused without."""
        self.unproven: dict[str, None] = {}
        """Paths that were read with a credential while nobody knows whether it was needed."""

    @property
    def repository(self) -> str:
        return self._tokens.repository

    @property
    def known(self) -> int:
        """How many credentials a request may have to try."""
        return len(self._known or ())

    async def authorization(self) -> str | None:
        """The Authorization header for the next request. A token that expires is renewed first."""
        async with self._lock:
            if self._token is not None and self._tokens.config.clock.monotonic() >= self._token.expires:
                await self._renew()
            return self._header()

    def accepted(self, sent: str | None, path: str) -> None:
        """Note that the registry accepted this header for ``path``."""
        self._proven = sent
        if self._mode is _Mode.CREDENTIAL and sent is not None:
            if self._uncertain:
                self.unproven[path] = None
            else:
                self.private = True

    async def refused(
        self, status: int, challenges: Iterable[Challenge], sent: str | None, tried: list[Credential]
    ) -> bool:
        """Learn from an error answer; True when the request should be sent again.

        ``tried`` are the credentials that were refused for this request, to which this call adds: each is tried once.
        """
        if status not in _DENIED:
            return False
        async with self._lock:
            if self._header() != sent:
                return True  # a concurrent request has changed the header meanwhile: try that one
            if status == 401 and sent is not None and sent == self._proven:
                # The token has worked and no longer does: it expired early, or the registry restarted. Once only, so
                # that a registry that never accepts a fresh token does not keep us busy.
                self._proven = None
                if await self._renew():
                    return True
            return await self._escalate(status, tuple(challenges), tried)

    def hint(self, tried: Sequence[Credential]) -> str:
        """What to do about a 401 or 403: there is no credential, or none of them was accepted."""
        host = credential_host(self._tokens.endpoint.host)
        if not self._safe:
            return (
                f"no credential is sent to {host} over transport without verification, unless an administrator adds it "
                "to the setting insecure_registries (in a cluster: the chart's insecureRegistries)"
            )
        names = sources(tried)
        if not names:
            remedy = f"name a Secret whose auths have {host} in spec.imagePullSecrets"
            remedy = f"{remedy} (on a plain host also: docker login {host})"
            return f"no credential for {host} was found; {remedy}"
        if len(names) == 1:
            return f"the credential for {host} from {names[0]} was not accepted; renew it"
        listed = ", ".join(names)
        return f"none of the credentials for {host} was accepted, tried in this order: {listed}; renew one of them"

    def _header(self) -> str | None:
        if self._token is not None:
            return f"Bearer {self._token.value}"
        basic = self._challenge is not None and self._challenge.scheme == "basic"
        return self._credential.basic() if basic and self._credential is not None else None

    async def _renew(self) -> bool:
        """Fetch a new token in the same way as the last one. False when there is none."""
        if self._challenge is None or self._challenge.scheme != "bearer":
            return False
        self._token = await self._tokens.fetch(self._challenge, self._credential)
        return self._token is not None

    async def _escalate(self, status: int, challenges: tuple[Challenge, ...], tried: list[Credential]) -> bool:
        if self._mode is _Mode.OPEN and status == 401:
            # Bearer first: with it, what is public needs no credential.
            self._challenge = find(challenges, "bearer") or find(challenges, "basic")
            if self._challenge is not None and self._challenge.scheme == "bearer":
                self._mode = _Mode.ANONYMOUS
                self._token = await self._tokens.fetch(self._challenge, None)
                if self._token is not None:
                    return True
        if self._challenge is None:  # the registry did not say how to authenticate
            return False
        if self._mode is _Mode.CREDENTIAL and self._credential is not None:
            if status == 429:  # it is the user's limit by now: another user is no remedy, time is
                return False
            tried.append(self._credential)
        return await self._use_next(self._challenge, tried, status)

    async def _use_next(self, challenge: Challenge, tried: list[Credential], status: int) -> bool:
        """Switch to the first credential that was not tried yet and that the token server accepts.

        After a 404 or a 429 it is not certain that a credential is the remedy: then a failure changes nothing.
        """
        certain = status in {401, 403}
        try:
            known = await self._credentials_known()
        except ImageCacheError:  # a helper program that fails
            if certain:
                raise
            return False
        problem: ImageCacheError | None = None
        for credential in (each for each in known if each not in tried):
            token: Token | None = None
            try:
                token = await self._tokens.fetch(challenge, credential) if challenge.scheme == "bearer" else None
            except ImageCacheError as error:
                problem = problem or error
                if isinstance(error, RateLimited | RegistryUnavailable):  # time is the remedy, no other credential
                    break
                # any other code is about this user: token servers refuse one with 404, 422 and others
            # Basic needs a user; an identity token is for token servers only.
            if token is not None or (challenge.scheme == "basic" and credential.username):
                self._uncertain = not certain and (self._mode is not _Mode.CREDENTIAL or self._uncertain)
                self._mode, self._credential, self._token = _Mode.CREDENTIAL, credential, token
                return True
            tried.append(credential)
        if problem is not None and certain:
            raise problem
        return False

    async def _credentials_known(self) -> Sequence[Credential]:
        if self._known is None and not self._safe:
            self._known = ()
        if self._known is None:
            host = credential_host(self._tokens.endpoint.host)
            self._known = await self._credentials.credentials_for(host, self._tokens.repository)
        return self._known
