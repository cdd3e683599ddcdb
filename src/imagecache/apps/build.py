"""Builds wired for one host: credentials, registry client and builder out of the settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imagecache import memory
from imagecache.api.building import BuildRequest
from imagecache.api.pull_secrets import PullSecret
from imagecache.builder.build_events import BuildEvent
from imagecache.builder.bundle_builder import BuildSettings, BundleBuilder
from imagecache.builder.resolve_platforms import Platforms
from imagecache.clock import Clock
from imagecache.errors import InvalidSetting
from imagecache.registry.client import RegistryClient
from imagecache.registry.config import RegistryConfig
from imagecache.registry.credentials import CredentialChain, Credentials
from imagecache.registry.docker_config import config_path, load_docker_config, parse_docker_config_json
from imagecache.registry.http_proxy import parse_proxies
from imagecache.registry.keyring import Keyring
from imagecache.registry.listed_hosts import ListedHosts
from imagecache.settings.table import Settings
from imagecache.store.bundle_document import Bundle
from imagecache.store.store import Store


@dataclass(frozen=True, slots=True)
class LocalBuilder:
    """``controller.dependencies.Builder`` in this process: for a command, which shows every event."""

    store: Store
    settings: Settings
    clock: Clock

    async def build(
        self, request: BuildRequest, credentials: Sequence[PullSecret], emit: Callable[[BuildEvent], None]
    ) -> None:
        found = host_credentials(credentials, config_path(self.settings.docker_config, os.environ, Path.home()))
        await build_bundle(self.store, self.settings, self.clock, request, found, emit)


def host_credentials(secrets: Sequence[PullSecret], docker_config: Path | None) -> Iterator[Credentials]:
    """The document's own secrets first, as one source, then what every tool on the host uses. Raises InvalidSetting."""
    payloads = ((secret.config, f"secret {secret.name}") for secret in secrets)
    yield Keyring.joined(parse_docker_config_json(config, source) for config, source in payloads)
    docker = load_docker_config(docker_config) if docker_config else None
    if docker is not None:
        yield docker


async def build_bundle(  # noqa: PLR0913 - one build, wired
    store: Store,
    settings: Settings,
    clock: Clock,
    request: BuildRequest,
    credentials: Iterable[Credentials],
    emit: Callable[[BuildEvent], None],
    *,
    builds: int = 1,
    discreet: bool = False,
    early: bool = True,
) -> Bundle:
    """One build into ``store``, with these credentials and none else.

    ``builds``: that may run at the same time; ``discreet``: ``RegistryConfig.discreet``; ``early`` as in
    ``BuildSettings``.
    """
    builder = BundleBuilder(store, clock, replace(build_settings(settings, builds), early=early))
    config = registry_config(settings, request.plain_http, request.insecure, discreet=discreet)
    async with RegistryClient(config, CredentialChain(credentials)) as source:
        return await builder.build(
            request.bundle_id,
            request.images,
            platforms=Platforms(request.platforms, complete=request.complete),
            size_limit=request.size_limit,
            revision=request.revision,
            source=source,
            emit=emit,
        )


def build_settings(settings: Settings, builds: int) -> BuildSettings:
    """Raises InvalidSetting."""
    if not 0 <= settings.store_reserve < 1:
        raise InvalidSetting(f"store_reserve: {settings.store_reserve} is not a share", hint="for example 0.02")
    cores = len(os.sched_getaffinity(0))
    workers = memory.share_out(memory.available(), builds=builds, jobs=settings.jobs, cores=cores)
    return BuildSettings(jobs=workers.number, memory=workers.memory, reserve=settings.store_reserve)


def registry_config(
    settings: Settings, plain_http: frozenset[str], insecure: frozenset[str], *, discreet: bool = False
) -> RegistryConfig:
    """``plain_http`` and ``insecure`` are those of an ImageCache. Raises InvalidSetting, RegistryUntrusted."""
    return RegistryConfig(
        hosts_dir=settings.hosts,
        listed=ListedHosts.parse(settings.insecure_registries),
        discreet=discreet,
        plain_http=plain_http,
        insecure=insecure,
        authorities=(Path(settings.registry_ca),) if settings.registry_ca else (),
        proxies=parse_proxies(os.environ),
        connect_timeout=settings.registry_connect_timeout,
        read_timeout=settings.registry_read_timeout,
        attempts=settings.registry_retries + 1,
    )
