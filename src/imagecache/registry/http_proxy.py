"""Which HTTP proxy a request takes, by the rules of HTTP_PROXY, HTTPS_PROXY and NO_PROXY.

The rules are Go's (golang.org/x/net/http/httpproxy), so that settings for containerd mean the same here. Requests to
loopback take no proxy. A proxy's address may hold a password: it must not be shown. Pure: ``apps`` reads the
environment.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from yarl import URL

from imagecache.errors import InvalidSetting
from imagecache.registry.endpoint import is_loopback

_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Proxies:
    """The values of the three variables; without them no request takes a proxy."""

    http: URL | None = field(default=None, repr=False)
    """For requests in plain HTTP."""
    https: URL | None = field(default=None, repr=False)
    """For requests over TLS, which the proxy tunnels."""
    exempt: tuple[str, ...] = ()
    """Hosts without a proxy: ``host`` with its subdomains, ``.domain`` for subdomains alone, an address, a network in
    CIDR form, each except for the network with an optional ``:port``; ``*`` for all."""

    def of(self, url: URL) -> URL | None:
        """The proxy for a request; None for a direct connection."""
        proxy = self.https if url.scheme == "https" else self.http
        host, port = (url.raw_host or "").lower().rstrip("."), url.port
        if proxy is None or is_loopback(f"[{host}]" if ":" in host else host):
            return None
        return None if any(_matches(rule, host, port) for rule in self.exempt) else proxy


def parse_proxies(environ: Mapping[str, str]) -> Proxies:
    """From environment variables, in upper or lower case. Raises InvalidSetting."""
    http, https, exempt = (environ.get(name) or environ.get(name.lower()) or "" for name in _NAMES)
    rules = (rule.strip().lower() for rule in exempt.split(","))
    return Proxies(_address("HTTP_PROXY", http), _address("HTTPS_PROXY", https), tuple(filter(None, rules)))


def _address(name: str, text: str) -> URL | None:
    if not text.strip():
        return None
    try:
        url = URL(text.strip() if "://" in text else f"http://{text.strip()}")
        # aiohttp speaks to HTTP proxies only; https:// and socks5:// would fail later, and less clearly.
        usable = url.scheme == "http" and bool(url.host) and url.port is not None
    except ValueError:
        usable = False
    if not usable:
        raise InvalidSetting(
            f"{name} is not the address of an HTTP proxy", hint="expected for example http://proxy.example:3128"
        )
    return url


def _matches(rule: str, host: str, port: int | None) -> bool:
    if rule == "*":
        return True
    if "/" in rule:
        return _within(host, rule)
    name, wanted = _split(rule)
    if wanted and wanted != str(port):
        return False
    if _address_of(name) is not None:
        return _address_of(name) == _address_of(host)
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _split(rule: str) -> tuple[str, str]:
    """Name and port. An IPv6 address without brackets has colons but no port."""
    if rule.startswith("["):
        name, _, rest = rule[1:].partition("]")
        return name, rest.removeprefix(":")
    if rule.count(":") == 1:
        name, _, port = rule.partition(":")
        return name, port
    return rule, ""


def _within(host: str, network: str) -> bool:
    address = _address_of(host)
    try:
        return address is not None and address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _address_of(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
