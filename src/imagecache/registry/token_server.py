"""Bearer tokens from the server that a challenge names.

Source: distribution's token specification (docs/spec/auth/token.md, oauth.md): GET with Basic for a user and password,
POST with ``refresh_token`` for an identity token, GET without credentials for an anonymous token. It must not decide
whether a credential is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from yarl import URL

from imagecache import foreign_json
from imagecache.backoff import Retryable
from imagecache.errors import MalformedDocument, ProtocolViolation
from imagecache.go_values import Integer, Time, check_moment
from imagecache.registry.challenge import Challenge
from imagecache.registry.config import RegistryConfig
from imagecache.registry.credentials import Credential
from imagecache.registry.endpoint import Endpoint, host_of
from imagecache.registry.go_url import parse_url
from imagecache.registry.http_errors import may_try_again, retry_after, status_error
from imagecache.registry.transport import Request, Transport, read_body

_CLIENT_ID = "imagecache"
_LIFETIME = 60.0
"""Seconds, when the server states none (the specification's default), and the least that clients assume."""
_MARGIN = 5.0
"""Seconds before its end from which a token is not used: a request takes time, and clocks differ."""
_REFUSED = frozenset({400, 401, 403})
"""400 is invalid_grant of RFC 6749 §5.2: a wrong refresh token."""
_VALUE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Token:
    value: str = field(repr=False)
    expires: float
    """On the monotonic clock, seconds."""


class _Answer(msgspec.Struct):
    """All fields that containerd declares (``core/remotes/docker/auth/fetch.go``): one of another type is an error."""

    access_token: str = ""
    refresh_token: str = ""
    expires_in: Integer = 0
    issued_at: Time = ""

    def __post_init__(self) -> None:
        check_moment(self.issued_at)


class _ToGet(_Answer):
    token: str = ""


class _ToPost(_Answer):
    scope: str = ""


@dataclass(frozen=True, slots=True)
class TokenServer:
    """The token server of one endpoint, for one repository."""

    transport: Transport
    config: RegistryConfig
    endpoint: Endpoint
    repository: str

    async def fetch(self, challenge: Challenge, credential: Credential | None) -> Token | None:
        """A new token; None when the server refuses. Raises RegistryError for every other failure."""
        request = self._request(challenge, credential)
        return await self.config.new_attempts().run(lambda: self._ask(request))

    async def _ask(self, request: Request) -> Token | None:
        host = host_of(request.url)
        async with self.transport.open(request) as response:
            if response.status in _REFUSED:
                return None
            if not 200 <= response.status < 300:
                after = retry_after(response.headers.get("Retry-After"), self.config.clock.now())
                error = status_error(response.status, host, "a token", after=after)
                raise Retryable(error, after) if may_try_again(response.status) else error
            body = await read_body(
                response, self.config.limits, self.config.limits.token_size, f"the token from {host}"
            )
        value, lifetime = _parse(body, _ToPost if request.form is not None else _ToGet)
        if not _VALUE.fullmatch(value):
            raise ProtocolViolation(f"the answer of {host} to a token request has no usable token")
        return Token(value=value, expires=self.config.clock.monotonic() + max(lifetime, _LIFETIME) - _MARGIN)

    def _request(self, challenge: Challenge, credential: Credential | None) -> Request:
        realm = self._realm(challenge)
        service = challenge.parameters.get("service", "")
        # its own beside those of the challenge, as containerd (core/remotes/docker/scope.go)
        own = f"repository:{self.repository}:pull"
        scopes = challenge.parameters.get("scope", "").split()
        scopes += [] if any(scope == own or scope.startswith(f"{own},") for scope in scopes) else [own]
        if credential is not None and credential.identity_token:
            form: Mapping[str, str] = {
                "grant_type": "refresh_token",
                "refresh_token": credential.identity_token,
                "client_id": _CLIENT_ID,
                "service": service,
                "scope": " ".join(scopes),
            }
            return Request(endpoint=self.endpoint, url=realm, form=form)
        # Several scopes are several parameters of a GET (token.md), and one with blanks of a POST (oauth.md).
        query = [*realm.query.items(), *([("service", service)] if service else [])]
        query += [("scope", scope) for scope in scopes]
        authorization = credential.basic() if credential else None
        return Request(endpoint=self.endpoint, url=realm.with_query(query), authorization=authorization)

    def _realm(self, challenge: Challenge) -> URL:
        """The token server's address: HTTP or HTTPS, and not less protected than the registry itself.

        A credential is sent there, and the address comes from an answer that anyone on the way could have written.
        """
        safe = {"https"} if self.endpoint.scheme == "https" and not self.endpoint.plain_fallback else {"http", "https"}
        try:
            realm = parse_url(challenge.parameters.get("realm", ""))
            usable = realm.scheme in safe and bool(realm.host) and not (realm.raw_user or realm.raw_password)
        except ValueError:
            usable = False
        if not usable:
            raise ProtocolViolation(
                f"{self.endpoint.host} names a token server that cannot be trusted",
                hint="the realm of its Bearer challenge must be an https address, or a host of insecure_registries",
            )
        return realm


def _parse(body: bytes, kind: type[_Answer]) -> tuple[str, int]:
    """The token, and for how many seconds it is good; empty and 0 when they are not said."""
    try:
        answer = foreign_json.decode(foreign_json.first(body), kind, conflicts=False)
    except MalformedDocument:
        return "", 0
    given = answer.token if isinstance(answer, _ToGet) else ""
    return answer.access_token or given, answer.expires_in  # of both, containerd takes the first
