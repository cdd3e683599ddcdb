"""The keys of Docker's ``auths``, and which repositories a key is for.

The rules are kubelet's (``pkg/credentialprovider``): scheme and ``/v1/`` are ignored, every label of the host may be a
glob (``*.example.com``), the port must be equal, and a path covers everything below it. A path matches whole
components only, so that ``host/team`` does not cover ``host/team-b``. It must not see secrets.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from imagecache.registry.credentials import credential_host
from imagecache.written import trimmed

_T = TypeVar("_T")
_SCHEME = re.compile(r"^https?://", re.IGNORECASE)
_API = re.compile(r"^v[12](?:/|$)")
_PORT = re.compile(r"^(.*?)(?::([0-9]+))?$", re.DOTALL)
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class AuthKey:
    """A parsed key."""

    host: str
    port: str
    path: str

    @classmethod
    def parse(cls, key: str) -> AuthKey:
        rest = _SCHEME.sub("", trimmed(key))
        host, _, path = rest.partition("/")
        host, port = _split_port(credential_host(host))
        return cls(host=host, port=port, path=_API.sub("", path).strip("/"))

    def matches(self, host: str, repository: str) -> bool:
        name, port = _split_port(credential_host(host))
        if self._is_glob:  # label by label: "*" never covers a dot, so *.example.com is not for a.b.example.com
            wanted, found = self.host.split("."), name.split(".")
            same_host = len(wanted) == len(found) and all(map(fnmatch.fnmatchcase, found, wanted))
        else:
            same_host = self.host == name
        same_path = not self.path or repository == self.path or repository.startswith(self.path + "/")
        return self.port == port and same_host and same_path

    @property
    def rank(self) -> tuple[int, int, int]:
        """Greater is more specific: an exact host wins over a glob, a long path over a short one."""
        return (0 if self._is_glob else 1, len(self.path), len(self.host))

    @property
    def _is_glob(self) -> bool:
        # An IPv6 address is in brackets, which are also a glob's.
        return not self.host.startswith("[") and _GLOB.search(self.host) is not None


def most_specific_first(entries: Iterable[tuple[str, _T]], host: str, repository: str) -> list[_T]:
    """What the keys that cover the repository stand for; of equally specific ones the first comes first."""
    parsed = [(AuthKey.parse(key), value) for key, value in entries]
    matching = [(key.rank, value) for key, value in parsed if key.matches(host, repository)]
    return [value for _, value in sorted(matching, key=lambda pair: pair[0], reverse=True)]


def _split_port(host: str) -> tuple[str, str]:
    if host.startswith("["):
        name, bracket, port = host.partition("]")
        return name + bracket, port.removeprefix(":")
    match = _PORT.match(host)
    return (match[1], match[2] or "") if match else (host, "")
