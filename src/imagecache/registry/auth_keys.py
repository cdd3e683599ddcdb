"""The keys of Docker's ``auths``, and which repositories a key is for.

The rules are those of kubelet's keyring (``pkg/credentialprovider/keyring.go``): the scheme, ``/v1`` and ``/v2`` are
ignored, every label of the host may be a glob (``*.example.com``), and the port must be equal. A path is the start of
a text: ``host/team`` covers ``host/team/app`` and ``host/team-b`` too, ``host/team/`` only what is below it. Of several
keys, the last in the order of text is tried first.

Beyond kubelet, hosts have no case, every name of Docker Hub is the same, ``/v2`` needs no slash behind it, and a glob
may have brackets, as Kubernetes documents it (Go's URLs refuse them). It must not see secrets.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from imagecache.registry import go_glob
from imagecache.registry.credentials import credential_host
from imagecache.written import trimmed

_T = TypeVar("_T")
_SCHEME = re.compile(r"^https?://", re.IGNORECASE)
_API = re.compile(r"^/v[12](?=/|$)")
_PORT = re.compile(r"^(.*?)(?::([0-9]+))?$", re.DOTALL)
_IN_BRACKETS = re.compile(r"^(\[([^\]]*)\])(?::([0-9]+))?$")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class AuthKey:
    """A parsed key."""

    host: str
    port: str
    path: str
    """With the slash before it; empty for all of the host."""
    rank: tuple[bool, str]
    """The greatest is tried first: kubelet sorts the keys as text, backwards. So a name comes before ``*``, and a long
    path before a short one. Other names of Docker Hub come last: kubelet looks at one when it has nothing else."""

    @classmethod
    def parse(cls, key: str) -> AuthKey:
        written, slash, rest = _SCHEME.sub("", trimmed(key)).partition("/")
        path = _API.sub("", slash + rest)
        path = "" if path == "/" else path
        written, known = written.lower(), credential_host(written)
        host, port = _split_port(known)
        return cls(host=host, port=port, path=path, rank=(written == known, written + path))

    def matches(self, host: str, repository: str) -> bool:
        name, port = _split_port(credential_host(host))
        return self.port == port and self._covers(name) and f"/{repository}".startswith(self.path)

    def _covers(self, name: str) -> bool:
        if _address(self.host) or not _GLOB.search(self.host):
            return self.host == name
        # label by label: "*" never covers a dot, so *.example.com is not for a.b.example.com
        wanted, found = self.host.split("."), name.split(".")
        return len(wanted) == len(found) and all(map(go_glob.matches, wanted, found))


def most_specific_first(entries: Iterable[tuple[str, _T]], host: str, repository: str) -> list[_T]:
    """What the keys that cover the repository stand for; of equal keys the first comes first."""
    parsed = [(AuthKey.parse(key), value) for key, value in entries]
    matching = [(key.rank, value) for key, value in parsed if key.matches(host, repository)]
    return [value for _, value in sorted(matching, key=lambda pair: pair[0], reverse=True)]


def _split_port(host: str) -> tuple[str, str]:
    address = _address(host)
    if address:
        return address[1], address[3] or ""
    match = _PORT.match(host)
    return (match[1], match[2] or "") if match else (host, "")


def _address(host: str) -> re.Match[str] | None:
    """An IPv6 address in brackets, with its port; None when the brackets are a glob's."""
    match = _IN_BRACKETS.match(host)
    try:
        return match if match and ipaddress.IPv6Address(match[2]) else None
    except ValueError:
        return None
