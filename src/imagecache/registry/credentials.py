"""Credentials, and where they come from: the port, and a chain of several sources.

A credential is for one host (and perhaps a path below it) and is sent nowhere else; its text form does not contain the
secret. It must not be written anywhere.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from imagecache.errors import ImageCacheError
from imagecache.telemetry.log import get_logger

_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "www.docker.io"})
HUB_SERVER = "https://index.docker.io/v1/"
"""The key under which ``docker login`` stores the credential for Docker Hub: the address of its v1 API."""
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Credential:
    """A user with a password, or an identity token (OAuth2 refresh token) of a token server."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    source: str = ""
    """Where it was found, for messages: ``secret default:secret1``."""

    def basic(self) -> str:
        """The value of a Basic Authorization header (RFC 7617, UTF-8)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Credentials(Protocol):
    """Finds the credentials for a repository."""

    async def credentials_for(self, host: str, repository: str) -> Sequence[Credential]:
        """All that are for it, in the order in which they are tried: the most specific first.

        Args:
            host: ``host[:port]``; Docker Hub is ``docker.io``.
            repository: path below the host, ``library/nginx``.
        """


class NoCredentials:
    async def credentials_for(self, host: str, repository: str) -> Sequence[Credential]:  # noqa: ARG002
        return ()


class CredentialChain:
    """Several sources in order: all that the first has, then all that the next has; the same secret once."""

    def __init__(self, sources: Iterable[Credentials]) -> None:
        self._sources = tuple(sources)

    async def credentials_for(self, host: str, repository: str) -> Sequence[Credential]:
        """Raises what a source has raised when no other one has a credential."""
        found: dict[tuple[str, str, str], Credential] = {}
        problem: ImageCacheError | None = None
        for source in self._sources:
            try:
                credentials = await source.credentials_for(host, repository)
            except ImageCacheError as error:  # a helper program that fails, as kubelet goes on without one
                _log.warning("source of credentials left out", host=host, problem=str(error))
                problem = problem or error
                continue
            for each in credentials:
                found.setdefault((each.username, each.password, each.identity_token), each)
        if problem is not None and not found:
            raise problem
        return tuple(found.values())


def credential_host(host: str) -> str:
    """The host under which credentials are looked up: every name of Docker Hub is ``docker.io``."""
    lower = host.lower()
    return "docker.io" if lower in _HUB else lower


def sources(credentials: Iterable[Credential]) -> list[str]:
    """Where they were found, for messages, each once: a secret may have several entries for a repository."""
    return list(dict.fromkeys(each.source or "the settings" for each in credentials))
