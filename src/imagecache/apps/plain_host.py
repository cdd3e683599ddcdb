"""The ImageCaches of a host without Kubernetes, wired: for the commands on them and for the agent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from imagecache.apps.bundle_store import LocalBundles
from imagecache.apps.platform import host_platform
from imagecache.apps.store import open_store
from imagecache.clock import Clock
from imagecache.controller.dependencies import Builder
from imagecache.kube.files import FileKube
from imagecache.kube.object_files import ObjectFiles
from imagecache.kube.secret_directory import SecretDirectory
from imagecache.plain_host.node import Attacher, HostNode
from imagecache.plain_host.verbs import HostDependencies, PlainHost
from imagecache.settings.table import Settings
from imagecache.store.store import Store

if TYPE_CHECKING:
    from imagecache.plain_host.duties import PlainHostDuties
    from imagecache.telemetry.metrics import Metrics


def open_plain_host(settings: Settings, clock: Clock) -> PlainHost:
    """The verbs on this machine's store and containerd. Raises StoreError."""
    return PlainHost(host_dependencies(open_store(settings, clock), settings, clock))


def host_dependencies(store: Store, settings: Settings, clock: Clock) -> HostDependencies:
    def builder() -> Builder:
        from imagecache.apps.build import LocalBuilder  # HTTP: for the commands that build

        return LocalBuilder(store, settings, clock)

    def attacher() -> Attacher:
        from imagecache.apps.attach import LocalAttacher  # gRPC: for the commands that attach or detach

        return LocalAttacher(store, settings, clock)

    def configuration() -> str:
        from imagecache.apps import registry_configuration  # for what a registry has refused

        return registry_configuration.configuration(settings, os.environ, Path.home())()

    files, platform = ObjectFiles(store.paths), host_platform()
    return HostDependencies(
        files=files,
        kube=FileKube(files, SecretDirectory(settings.secrets), clock),
        store=LocalBundles(store),
        builder=builder,
        node=HostNode(store.paths.nodes, attacher, platform),
        clock=clock,
        architecture=platform.architecture,
        configuration=configuration,
    )


def plain_host_duties(store: Store, settings: Settings, clock: Clock) -> PlainHostDuties:
    """For the agent of this machine. Its builds are processes: no start of a container waits for one."""
    from imagecache.controller.build_process import ProcessBuilder  # metrics: for the agent alone
    from imagecache.plain_host.duties import PlainHostDuties
    from imagecache.registry.docker_config import config_path
    from imagecache.settings.flags import as_flags

    def builder(metrics: Metrics) -> Builder:
        docker_config = str(config_path(settings.docker_config, os.environ, Path.home()))
        return ProcessBuilder(as_flags(settings), metrics, clock, docker_config=docker_config)

    return PlainHostDuties(host_dependencies(store, settings, clock), builder)
