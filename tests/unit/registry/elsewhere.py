"""Loopback as a whole network: its addresses stand for other places, and names lead to them."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp.abc import AbstractResolver, ResolveResult

from imagecache.registry.address import Place, place_of

PUBLIC, PRIVATE, LINK_LOCAL, LOOPBACK = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.1"
PLACES = {PUBLIC: Place.PUBLIC, PRIVATE: Place.PRIVATE, LINK_LOCAL: Place.RESERVED}


def places(address: str) -> Place:
    return PLACES.get(address) or place_of(address)


@dataclass
class Names(AbstractResolver):
    """Fake of getaddrinfo(3): a table, and what was asked."""

    known: Mapping[str, str]
    asked: list[str] = field(default_factory=list)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del family
        self.asked.append(host)
        if host not in self.known:
            raise OSError(socket.EAI_NONAME, "no such name")
        found = ResolveResult(
            hostname=host,
            host=self.known[host],
            port=port,
            family=socket.AF_INET,
            proto=0,
            flags=socket.AI_NUMERICHOST,
        )
        return [found]

    async def close(self) -> None:
        pass

    def __call__(self) -> Names:
        """For ``RegistryConfig.names``."""
        return self
