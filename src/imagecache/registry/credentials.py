"""Credentials, and where they come from: the port, and a chain of several sources.

A credential is for one host (and perhaps a path below it) and is sent nowhere else; its text form does not contain the
secret. It must not be written anywhere.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "www.docker.io"})
HUB_SERVER = "https://index.docker.io/v1/"
"""The key under which ``docker login`` stores the credential for Docker Hub: the address of its v1 API."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A user with a password, or an identity token (OAuth2 refresh token) of a token server."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    source: str = ""
    """Where it was found, for messages: ``secret default/secret1``."""

    def basic(self) -> str:
        """The value of a Basic Authorization header (RFC 7617, UTF-8)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Credentials(Protocol):
    """Finds the credential for a repository."""

    async def credentials_for(self, host: str, repository: str) -> Credential | None:
        """The most specific credential, or None.

        Args:
            host: ``host[:port]``; Docker Hub is ``docker.io``.
            repository: path below the host, ``library/nginx``.
        """


class NoCredentials:
    async def credentials_for(self, host: str, repository: str) -> Credential | None:  # noqa: ARG002
        return None


class CredentialChain:
    """Several sources in order; the first that has a credential for the repository wins."""

    def __init__(self, sources: Iterable[Credentials]) -> None:
        self._sources = tuple(sources)

    async def credentials_for(self, host: str, repository: str) -> Credential | None:
        for source in self._sources:
            credential = await source.credentials_for(host, repository)
            if credential is not None:
                return credential
        return None


def credential_host(host: str) -> str:
    """The host under which credentials are looked up: every name of Docker Hub is ``docker.io``."""
    lower = host.lower()
    return "docker.io" if lower in _HUB else lower
