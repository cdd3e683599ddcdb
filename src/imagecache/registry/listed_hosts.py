"""The registries that the administrator lists: with them alone, transport without verification is allowed.

Whoever writes an ImageCache may ask for plain HTTP, or for a certificate that nobody verifies. Whoever is on the way
then says what an image's name means, and gets the credentials. So that is the administrator's to allow, host by host
(setting ``insecure_registries``). Pure; it must not know what is asked for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from imagecache.errors import InvalidSetting
from imagecache.registry.endpoint import HUB, HUB_API, is_loopback, literal

AUTO = "auto"
"""Loopback on a plain host; a cluster's controller has no such default, since its loopback is nobody else's."""
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class ListedHosts:
    """``host in listed`` for ``host[:port]``, written as in a reference."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[_Network, ...] = ()
    """Of hosts that are written as an address; any port."""
    loopback: bool = False
    """localhost, 127.0.0.0/8 and ::1, any port."""

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """From the setting: ``auto``, ``host[:port]`` and networks in CIDR form. Raises InvalidSetting."""
        words = [entry.lower() for entry in entries]
        hosts = frozenset(word for word in words if word != AUTO and "/" not in word)
        for host in sorted(hosts):
            if not _HOST.fullmatch(host):
                raise _invalid(host)
        networks = tuple(_network(word) for word in words if "/" in word)
        return cls(hosts, networks, loopback=AUTO in words)

    def __contains__(self, host: str) -> bool:
        name = host.lower()
        if name in self.hosts or (name == HUB_API and HUB in self.hosts) or (self.loopback and is_loopback(name)):
            return True
        address = literal(name)
        return address is not None and any(address in network for network in self.networks)


def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise _invalid(text) from error


def _invalid(text: str) -> InvalidSetting:
    return InvalidSetting(
        f"insecure_registries: {text[:80]!r} is neither host[:port] nor a network",
        hint="write a host exactly as in references (registry.example:5000), or a network as 10.0.0.0/8",
    )
