"""Entries of Docker's ``auths`` from one or several configurations, as kubelet's keyring has them.

Source: kubelet's ``pkg/credentialprovider/keyring.go``: of all pull secrets together, every entry that covers the
repository is tried, the most specific first; those of equal keys in the order of the secrets. One that is broken is
passed over, and is an error for its own registry alone, when nothing else is left. It must not read files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from imagecache.errors import InvalidSetting
from imagecache.registry.auth_keys import most_specific_first
from imagecache.registry.credentials import Credential


@dataclass(frozen=True, slots=True)
class BrokenEntry:
    """``registry.credentials.Credentials``: something in a configuration that cannot be used, and why."""

    message: str
    hint: str

    def error(self) -> InvalidSetting:
        return InvalidSetting(self.message, hint=self.hint)

    async def credentials_for(self, host: str, repository: str) -> Sequence[Credential]:  # noqa: ARG002 - it has none
        raise self.error()


@dataclass(frozen=True, slots=True)
class Keyring:
    """``registry.credentials.Credentials``."""

    entries: tuple[tuple[str, Credential | BrokenEntry], ...] = field(default=(), repr=False)
    """Key and credential, in the order of their sources."""

    @classmethod
    def joined(cls, keyrings: Iterable[Keyring]) -> Keyring:
        """All entries as of one source."""
        return cls(tuple(entry for keyring in keyrings for entry in keyring.entries))

    async def credentials_for(self, host: str, repository: str) -> Sequence[Credential]:
        """Raises InvalidSetting when no entry for the repository can be used."""
        found = most_specific_first(self.entries, host, repository)
        usable = [each for each in found if isinstance(each, Credential)]
        broken = next((each for each in found if isinstance(each, BrokenEntry)), None)
        if broken is not None and not usable:
            raise broken.error()
        return usable
