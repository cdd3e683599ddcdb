"""Where an address is: on the internet, in a private network, on this machine, or where no registry can be.

A registry chooses where its tokens and blobs are, and what it is told of the answer. So it may send a client only to
where it is itself: one on the internet to the internet, one in a private network also there. Sources: IANA's registries
of special-purpose addresses (RFC 6890), and the documents of cloud providers for their metadata services. Pure.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PlaceOf = Callable[[str], "Place"]
"""``place_of``; tests have addresses of this machine stand for others."""
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Place(enum.Enum):
    PUBLIC = enum.auto()
    PRIVATE = enum.auto()
    LOOPBACK = enum.auto()
    RESERVED = enum.auto()
    """Link-local, metadata of a cloud, multicast, unspecified."""


def _networks(*texts: str) -> tuple[_Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


_METADATA = _networks(
    "100.100.100.200/32",  # Alibaba Cloud
    "168.63.129.16/32",  # Azure: WireServer
    "192.0.0.192/32",  # Oracle Cloud
    "fd00:ec2::254/128",  # AWS; over IPv4 it is link-local, as most are
    "fd20:ce::254/128",  # Google Cloud
)
_RESERVED = (
    *_METADATA,
    *_networks("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/128", "fe80::/10", "ff00::/8"),
)
"""0.0.0.0 is this machine on Linux."""
_LOOPBACK = _networks("127.0.0.0/8", "::1/128")
_PRIVATE = _networks(
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
    "100.64.0.0/10",  # shared by a provider's customers, and by services inside of clouds
    *("192.0.0.0/24", "198.18.0.0/15"),
    *("fc00::/7", "fec0::/10"),
)
_TRANSLATED = _networks("::ffff:0:0/96", "64:ff9b::/96", "::/96")
"""The last four bytes are an IPv4 address: mapped, NAT64 (RFC 6052), and the form of RFC 4291 that nobody uses."""
_TRANSLATED_LOCALLY = ipaddress.ip_network("64:ff9b:1::/48")
"""RFC 8215: where in it the IPv4 address is, the network decides, so it counts as private."""


def place_of(address: str) -> Place:
    """Of an address as getaddrinfo(3) or getpeername(2) has it. Raises ValueError when it is none."""
    return _place(ipaddress.ip_address(address.partition("%")[0]))


def _place(address: _Address) -> Place:
    for place, networks in ((Place.RESERVED, _RESERVED), (Place.LOOPBACK, _LOOPBACK), (Place.PRIVATE, _PRIVATE)):
        if any(address in network for network in networks):
            return place
    if isinstance(address, ipaddress.IPv6Address):
        if address in _TRANSLATED_LOCALLY:
            return Place.PRIVATE
        if any(address in network for network in _TRANSLATED):
            return _place(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.sixtofour is not None:
            return _place(address.sixtofour)
        if address.teredo is not None:
            return max(map(_place, address.teredo), key=lambda place: place.value)
    return Place.PUBLIC


@dataclass(slots=True)
class Reach:
    """How far one request may go, and how far it went."""

    own: bool
    """To the registry that the reference names, or to a mirror of hosts.toml; else where such a one has sent us."""
    listed: bool = False
    """The administrator lists that registry."""
    registry: Place = Place.PUBLIC
    """Where the registry itself is, as far as it is known."""
    connected: Place | None = None
    """Where the last connection has led."""

    def allows(self, place: Place) -> bool:
        if place is Place.PUBLIC:
            return True
        if self.own:
            return place is Place.PRIVATE or self.listed
        if place is Place.PRIVATE:
            return self.registry in {Place.PRIVATE, Place.LOOPBACK}
        return place is Place.LOOPBACK and self.registry is Place.LOOPBACK
