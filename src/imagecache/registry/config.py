"""Everything that changes how we talk to registries, as one value.

The caller fills it from flags, files and annotations. Clock, sleep, chance (in the back-off), names and places are in
it, so that tests own them. It must not read the environment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver

from imagecache import __version__
from imagecache.backoff import Attempts, Backoff
from imagecache.clock import Clock, SystemClock
from imagecache.errors import RegistryUntrusted
from imagecache.limits import DEFAULT, MIB, Limits
from imagecache.registry.address import PlaceOf, place_of
from imagecache.registry.http_proxy import Proxies
from imagecache.registry.listed_hosts import ListedHosts


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Times in seconds, sizes in bytes."""

    hosts_dir: Path | None = None
    """Directory of containerd's ``hosts.toml`` files, usually ``/etc/containerd/certs.d``."""
    listed: ListedHosts = field(default_factory=ListedHosts)
    """The only ones that may be in the next two, and that get a credential over transport without verification."""
    plain_http: frozenset[str] = frozenset()
    """``host[:port]`` exactly as in references (annotation k8s.aliyun.com/plain-http-registry)."""
    insecure: frozenset[str] = frozenset()
    """``host[:port]`` whose certificates are not verified (annotation k8s.aliyun.com/insecure-registry)."""
    authorities: tuple[Path, ...] = ()
    """PEM files of authorities that may sign any server's certificate, beside those of the system."""
    proxies: Proxies = field(default_factory=Proxies)
    connect_timeout: float = 30.0  # containerd's, too
    read_timeout: float = 60.0
    """Longest pause within an answer; ``limits`` has how much of it must come in which time."""
    attempts: int = 5
    """Attempts of one request, or of one blob without progress."""
    backoff: Backoff = Backoff(0.5, 20.0, jitter=0.5)
    """Pauses between attempts."""
    retry_after_limit: float = 120.0
    """A registry that asks to wait longer than this is an error at once: the caller retries later."""
    connections: int = 16
    """Open connections per host."""
    read_buffer: int = 4 * MIB
    """Per blob: reading from the socket pauses above twice this."""
    limits: Limits = DEFAULT
    discreet: bool = False
    """Errors say nothing of a server that has not shown to be a registry: they are read by who may name any address,
    and not reach it. What is known of it is logged."""
    user_agent: str = f"imagecache/{__version__}"
    names: Callable[[], AbstractResolver] = ThreadedResolver
    """Looks up the addresses of a host: getaddrinfo(3)."""
    place_of: PlaceOf = place_of
    """Where an address is."""
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def __post_init__(self) -> None:
        """Raises RegistryUntrusted when a host is to be reached without verification that is not listed."""
        if self.connect_timeout <= 0 or self.read_timeout <= 0:
            raise ValueError("time limits must be greater than 0: aiohttp takes 0 for no limit")
        for host in sorted(self.plain_http | self.insecure):
            if host not in self.listed:
                raise RegistryUntrusted(
                    f"{host} may not be reached without verification (plain HTTP, or any certificate)",
                    hint=f"an administrator adds {host} to the setting insecure_registries (in a cluster: the chart's "
                    "insecureRegistries), or remove it from the annotations k8s.aliyun.com/plain-http-registry and "
                    "k8s.aliyun.com/insecure-registry",
                )

    def new_attempts(self, limit: int | None = None) -> Attempts:
        """The attempts of one request; ``limit`` overrides ``attempts``."""
        return Attempts(limit or self.attempts, self.backoff, self.sleep, self.retry_after_limit)
