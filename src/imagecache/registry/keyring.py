"""Entries of Docker's ``auths`` from one or several configurations, as kubelet's keyring has them.

Source: kubelet's ``pkg/credentialprovider/keyring.go``: of all pull secrets together, every entry that covers the
repository is tried, the most specific first; equally specific ones in the order of the secrets. It must not read files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from imagecache.registry.auth_keys import most_specific_first
from imagecache.registry.credentials import Credential


@dataclass(frozen=True, slots=True)
class Keyring:
    """``registry.credentials.Credentials``."""

    entries: tuple[tuple[str, Credential], ...] = field(default=(), repr=False)
    """Key and credential, in the order of their sources."""

    @classmethod
    def joined(cls, keyrings: Iterable[Keyring]) -> Keyring:
        """All entries as of one source."""
        return cls(tuple(entry for keyring in keyrings for entry in keyring.entries))

    async def credentials_for(self, host: str, repository: str) -> Sequence[Credential]:
        return most_specific_first(self.entries, host, repository)
