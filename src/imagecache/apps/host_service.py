"""The host service, wired: systemd, containerd's files and records, the program that this process runs from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from imagecache.agent.daemonset import OwnDaemonSet, withdraw
from imagecache.agent.installation import AgentInstallation, HostOptions
from imagecache.agent.keeper import Keeper
from imagecache.agent.pod_credentials import PodCredentials
from imagecache.apps.containerd_config import HostContainerdFiles, containerd_version
from imagecache.apps.host_containerd import HostContainerdRecords
from imagecache.clock import Clock
from imagecache.errors import InvalidSetting
from imagecache.host.runtime_files import runtime_files
from imagecache.host.service_files import HostFiles
from imagecache.host.systemd import Systemd
from imagecache.kube.api import Kube
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import in_cluster
from imagecache.settings.table import Settings

_UNIT_PATH = re.compile(r"[A-Za-z0-9/._-]+")


def open_installation(
    settings: Settings, clock: Clock, options: HostOptions, environ: Mapping[str, str] = os.environ
) -> AgentInstallation:
    """Raises InvalidSetting."""
    directory = settings.host_directory
    if not _UNIT_PATH.fullmatch(str(directory)):
        raise InvalidSetting(
            f"host_directory: {directory} cannot be written into a unit of systemd",
            hint="use letters, digits and . _ - only",
        )
    files = HostFiles(options.root, directory)
    drop_in = HostContainerdFiles(settings, lambda: containerd_version(settings, clock, options.root), options.root)
    return AgentInstallation(
        settings=settings,
        options=options,
        files=files,
        services=Systemd(options.root),
        containerd=(drop_in, HostContainerdRecords(drop_in, clock)),
        program=lambda: runtime_files(directory),
        credentials=PodCredentials(settings, environ),
        clock=clock,
    )


def open_keeper(settings: Settings, environ: Mapping[str, str] = os.environ) -> Keeper:
    """In its container, where the host's directory is at the host's own path."""
    return Keeper(settings, environ, HostFiles())


async def follow(daemonset: OwnDaemonSet) -> None:
    """Without end; ends at once where we run in no Pod of a DaemonSet."""
    connection = pod_connection() if daemonset.settings.daemonset else None
    if connection is not None:
        async with connection as kube:
            await daemonset.follow(kube)


async def is_removed(daemonset: OwnDaemonSet) -> bool:
    """Whether the Pod that we run in ends for good. False when that cannot be known."""
    connection = pod_connection() if daemonset.settings.daemonset else None
    if connection is None:
        return False
    async with connection as kube:
        return await daemonset.has_left(kube)


async def withdraw_report(settings: Settings) -> None:
    """Delete what the agent has reported of its Node. An API server that refuses is logged."""
    connection = pod_connection()
    if connection is not None:
        async with connection as kube:
            await withdraw(kube, settings.node_name)


def pod_connection() -> AbstractAsyncContextManager[Kube] | None:
    """The API server of the cluster whose Pod we run in; None outside of one."""
    access = in_cluster(os.environ)
    return KubeClient(access) if access is not None else None
