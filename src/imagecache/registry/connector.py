"""Connections that lead only to where a request may go, checked by the address and not by the name.

A name is looked up as it is written: one with a dot is absolute, or a search domain of the Pod would make a Service of
somebody's namespace out of ``ghcr.io``. An address that DNS answers is checked before a connection is made, and the one
that a connection has, also one that is used again, before a request is sent. It must not choose what is allowed.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from imagecache.errors import ProtocolViolation
from imagecache.registry.address import PlaceOf, Reach, place_of

HOSTS = Path("/etc/hosts")
_reach: ContextVar[Reach | None] = ContextVar("reach", default=None)
"""Of the request that is being made. None: a proxy makes the connection, and what it reaches is its own to refuse."""


@contextlib.contextmanager
def within(reach: Reach | None) -> Iterator[None]:
    """Requests of the block, which are made in this task, go no further."""
    token = _reach.set(reach)
    try:
        yield
    finally:
        _reach.reset(token)


class Resolver(AbstractResolver):
    """Asks another one for names as they are written, and leaves out the addresses that are out of reach."""

    def __init__(self, inner: AbstractResolver, place_of: PlaceOf = place_of, hosts: Path = HOSTS) -> None:
        self._inner = inner
        self._place_of = place_of
        self._hosts = hosts

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        reach = _reach.get()
        if reach is None:
            return await self._inner.resolve(host, port, family)
        found = await self._inner.resolve(absolute(host, self._hosts), port, family)
        allowed = [each for each in found if reach.allows(self._place_of(each["host"]))]
        if found and not allowed:
            raise out_of_reach(host)
        return allowed

    async def close(self) -> None:
        await self._inner.close()


class Connector(aiohttp.TCPConnector):
    """A connection out of reach is closed before anything is sent."""

    def __init__(self, resolver: AbstractResolver, place_of: PlaceOf = place_of, *, limit_per_host: int = 0) -> None:
        # limit=0: the bound is per host, since builds read from several registries. No cache of names: an address is
        # checked for each request that it is for.
        super().__init__(limit=0, limit_per_host=limit_per_host, resolver=resolver, use_dns_cache=False)
        self._place_of = place_of

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as in the class above
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        reach = _reach.get()
        if reach is not None:
            name = connection.transport.get_extra_info("peername") if connection.transport is not None else None
            if not name:  # it has ended already
                connection.close()
                raise aiohttp.ServerDisconnectedError
            place = self._place_of(name[0])
            if not reach.allows(place):
                connection.close()
                raise out_of_reach(req.url.raw_host or "")
            reach.connected = place
        return connection


def out_of_reach(host: str) -> ProtocolViolation:
    return ProtocolViolation(
        f"{host} is at an address where it must not be asked",
        hint="a registry may send us only to where it is itself; one on loopback or a link-local address has to be in "
        "the setting insecure_registries",
    )


def absolute(host: str, hosts: Path = HOSTS) -> str:
    """A name with a dot as an absolute one, which no search domain completes.

    Not one of /etc/hosts, where glibc does not find it with a dot at its end.
    """
    return f"{host}." if "." in host and not host.endswith(".") and host.lower() not in _listed(hosts) else host


def _listed(hosts: Path) -> frozenset[str]:
    """Names of hosts(5)."""
    try:
        text = hosts.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    entries = (line.partition("#")[0].split() for line in text.splitlines())
    return frozenset(name.lower() for entry in entries for name in entry[1:])
