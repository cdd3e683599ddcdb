"""Where the API of a registry is, as plain data.

An endpoint is one server: its address, its trust settings and its capabilities. It must not do I/O.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

HUB = "docker.io"
HUB_API = "registry-1.docker.io"  # docker.io itself is a web site; the same address is fixed in containerd


class Capability(enum.Flag):
    """What a server may be asked for (containerd's docs/hosts.md)."""

    PULL = enum.auto()
    """Content by digest."""
    RESOLVE = enum.auto()
    """A tag to a digest."""


ALL = Capability.PULL | Capability.RESOLVE


@dataclass(frozen=True, slots=True)
class Trust:
    """TLS settings of one server."""

    verify: bool = True
    authorities: tuple[Path, ...] = ()
    """PEM files, besides the system's own."""
    clients: tuple[tuple[Path, Path | None], ...] = ()
    """Client certificates: certificate and key, or one file with both."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server of a registry. ``headers`` may hold secrets, so they are not part of its text form."""

    scheme: str
    host: str
    """``host[:port]``, lower case."""
    path: str = "/v2"
    capabilities: Capability = ALL
    trust: Trust = Trust()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    namespace: str = ""
    """For mirrors: the host of the reference, sent as ``ns``, since one mirror may serve several registries."""
    plain_fallback: bool = False
    """Fall back to plain HTTP when the server does not speak TLS."""
    dial_timeout: float | None = None
    """Seconds; None for the configured one. As in Go's net.Dialer, 0 is no limit but the kernel's own, and with less
    than 0 no connection is ever made."""

    @property
    def verified(self) -> bool:
        """Whoever answers has a certificate for it that was verified."""
        return self.scheme == "https" and self.trust.verify and not self.plain_fallback

    def url(self, rest: str) -> URL:
        """URL below the API's root, ``library/nginx/manifests/latest``."""
        url = URL(f"{self.scheme}://{self.host}{self.path}/{rest}", encoded=True)
        return url.with_query({"ns": self.namespace}) if self.namespace else url


def host_of(url: URL) -> str:
    """``host[:port]`` as the URL has it, in lower case, without a user."""
    return url.raw_authority.rpartition("@")[2].lower()


def default_endpoint(host: str) -> Endpoint:
    """The registry itself: HTTPS; on loopback with a fallback to plain HTTP, as in containerd."""
    if host == HUB:
        return Endpoint(scheme="https", host=HUB_API)
    return Endpoint(scheme="https", host=host.lower(), plain_fallback=is_loopback(host))


def with_user_lists(endpoint: Endpoint, plain_http: frozenset[str], insecure: frozenset[str]) -> Endpoint:
    """Apply the user's lists of hosts. ``docker.io`` in a list also means the address of its API."""
    names = {endpoint.host, HUB} if endpoint.host == HUB_API else {endpoint.host}
    if names & {name.lower() for name in plain_http}:
        return dataclasses.replace(endpoint, scheme="http", plain_fallback=False)
    if names & {name.lower() for name in insecure}:
        return dataclasses.replace(endpoint, trust=dataclasses.replace(endpoint.trust, verify=False))
    return endpoint


def is_loopback(host: str) -> bool:
    """Whether ``host[:port]`` is this machine: localhost, 127.0.0.0/8 or ::1."""
    address = literal(host)
    return _name(host).lower() == "localhost" or (address is not None and address.is_loopback)


def literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that ``host[:port]`` is written as; None for a name."""
    try:
        return ipaddress.ip_address(_name(host))
    except ValueError:
        return None


def _name(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
