"""containerd on a host, wired: its files, its records of our snapshotter, its unit, and the guard of all that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from imagecache.apps.containerd_config import config_for, containerd_version, running_version
from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.modes import NATIVE_SNAPSHOTTER
from imagecache.containerd.snapshotter_removal import SnapshotterRemoval
from imagecache.host.chroot import in_root
from imagecache.host.config_guard import ConfigGuard
from imagecache.host.containerd_config import Change, Found
from imagecache.host.containerd_process import unit_at
from imagecache.host.service import HostService, HostSettings
from imagecache.host.service_files import HostFiles, Program
from imagecache.host.systemd import Systemd
from imagecache.host.systemd_units import CONTAINERD
from imagecache.settings.table import Mode, Repair, Settings

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class HostContainerdFiles:
    """``host.service.ContainerdFiles``, in the host's own filesystem."""

    settings: Settings
    clock: Clock
    root: Path
    unit: str | None = CONTAINERD
    """Of a containerd that does not run, what it would start counts; None: without a running one nothing is judged."""

    def install(self, *, serve_only: bool = False) -> Sequence[Change]:
        version = self._version()
        return in_root(self.root, lambda: config_for(self.settings, version, serve_only=serve_only).install())

    def undo(self) -> Sequence[Change]:
        version = self._version()
        return in_root(self.root, lambda: config_for(self.settings, version).undo())

    def look(self) -> Found:
        version = self._version()
        return in_root(self.root, lambda: config_for(self.settings, version).look())

    def default_snapshotter(self) -> str:
        version = self._version()
        return in_root(self.root, lambda: config_for(self.settings, version).default_snapshotter())

    def _version(self) -> str:
        if self.unit is None:
            return running_version(self.settings, self.clock, self.root)
        return containerd_version(self.settings, self.clock, self.root, self.unit)


@dataclass(frozen=True, slots=True)
class HostContainerdRecords:
    """``host.service.ContainerdRecords``, over the host's socket."""

    files: HostContainerdFiles

    def is_loaded(self) -> bool:
        return self._run(SnapshotterRemoval.is_loaded)

    def delete_image_records(self, *, ours: bool = False) -> Sequence[str]:
        return self._run(SnapshotterRemoval.delete_image_records, default=self._ours if ours else "")

    def in_use(self) -> int:
        return self._run(SnapshotterRemoval.in_use)

    def remove_snapshots(self) -> None:
        self._run(SnapshotterRemoval.remove_snapshots)

    @property
    def _ours(self) -> str:
        settings = self.files.settings
        return NATIVE_SNAPSHOTTER if settings.mode is Mode.NATIVE else settings.snapshotter

    def _run(self, work: Callable[[SnapshotterRemoval], Awaitable[_T]], *, default: str = "") -> _T:
        """``default``: the snapshotter of new containers; empty: the one that they have without us."""
        default = default or self.files.default_snapshotter()

        async def run() -> _T:
            address = self.files.root / self.files.settings.address.relative_to("/")
            async with ContainerdClient(address, self.files.clock) as containerd:
                return await work(SnapshotterRemoval(containerd, self._ours, default))

        return asyncio.run(run())


def open_guard(settings: Settings, clock: Clock, forgotten: Callable[[], None]) -> ConfigGuard | None:
    """For the agent, which runs on the host itself; None when it is no host service. ``forgotten``: see ConfigGuard."""
    if not HostFiles().current():
        return None
    drop_in = HostContainerdFiles(settings, clock, Path("/"), unit=None)

    def service() -> HostService:
        found = HostSettings(settings.mode, "", settings.address, containerd_unit=unit_at(settings.address))
        return HostService(HostFiles(), Systemd(), (drop_in, HostContainerdRecords(drop_in)), found, _program)

    return ConfigGuard(service, clock, repair=settings.repair is Repair.AUTO, forgotten=forgotten)


def _program() -> Program:
    from imagecache.host.runtime_files import runtime_files  # metadata of packages: no guard installs a program

    return runtime_files()
