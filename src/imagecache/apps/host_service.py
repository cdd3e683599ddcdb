"""The host service, wired: systemd, containerd's files and records, the program that this process runs from."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from imagecache.agent.daemonset import has_left, withdraw
from imagecache.agent.installation import AgentInstallation, HostOptions
from imagecache.agent.pod_credentials import PodCredentials
from imagecache.apps.containerd_config import config_for, containerd_version
from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.modes import NATIVE_SNAPSHOTTER
from imagecache.containerd.snapshotter_removal import SnapshotterRemoval
from imagecache.host.chroot import in_root
from imagecache.host.containerd_config import Change
from imagecache.host.runtime_files import runtime_files
from imagecache.host.service_files import HostFiles
from imagecache.host.systemd import Systemd
from imagecache.kube.api import Kube
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import in_cluster
from imagecache.settings.table import Mode, Settings

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class HostContainerdFiles:
    """``host.service.ContainerdFiles``, in the host's own filesystem."""

    settings: Settings
    clock: Clock
    root: Path

    def install(self, *, serve_only: bool = False) -> Sequence[Change]:
        version = self._version()
        return in_root(self.root, lambda: config_for(self.settings, version, serve_only=serve_only).install())

    def undo(self) -> Sequence[Change]:
        version = self._version()
        return in_root(self.root, lambda: config_for(self.settings, version).undo())

    def default_snapshotter(self) -> str:
        version = self._version()
        return in_root(self.root, lambda: config_for(self.settings, version).default_snapshotter())

    def _version(self) -> str:
        return containerd_version(self.settings, self.clock, self.root)


@dataclass(frozen=True, slots=True)
class HostContainerdRecords:
    """``host.service.ContainerdRecords``, over the host's socket."""

    files: HostContainerdFiles

    def is_loaded(self) -> bool:
        return self._run(SnapshotterRemoval.is_loaded)

    def delete_image_records(self) -> Sequence[str]:
        return self._run(SnapshotterRemoval.delete_image_records)

    def in_use(self) -> int:
        return self._run(SnapshotterRemoval.in_use)

    def remove_snapshots(self) -> None:
        self._run(SnapshotterRemoval.remove_snapshots)

    def _run(self, work: Callable[[SnapshotterRemoval], Awaitable[_T]]) -> _T:
        settings = self.files.settings
        ours = NATIVE_SNAPSHOTTER if settings.mode is Mode.NATIVE else settings.snapshotter
        default = self.files.default_snapshotter()

        async def run() -> _T:
            address = self.files.root / settings.address.relative_to("/")
            async with ContainerdClient(address, self.files.clock) as containerd:
                return await work(SnapshotterRemoval(containerd, ours, default))

        return asyncio.run(run())


def open_installation(
    settings: Settings, clock: Clock, options: HostOptions, environ: Mapping[str, str] = os.environ
) -> AgentInstallation:
    """Raises InvalidSetting."""
    files, drop_in = HostFiles(options.root), HostContainerdFiles(settings, clock, options.root)
    return AgentInstallation(
        settings=settings,
        options=options,
        files=files,
        services=Systemd(options.root),
        containerd=(drop_in, HostContainerdRecords(drop_in)),
        program=runtime_files,
        credentials=PodCredentials(files, settings, environ),
    )


async def is_removed(settings: Settings) -> bool:
    """Whether the Pod that we run in ends for good. False when that cannot be known."""
    connection = pod_connection() if settings.daemonset else None
    if connection is None:
        return False
    async with connection as kube:
        return await has_left(kube, settings)


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
