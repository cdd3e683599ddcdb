"""containerd on a host, wired: its records of our snapshotter, its unit, and the guard of its configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from imagecache.apps.containerd_config import HostContainerdFiles, running_version
from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.modes import NATIVE_SNAPSHOTTER
from imagecache.containerd.snapshotter_removal import SnapshotterRemoval
from imagecache.errors import ContainerdMisconfigured
from imagecache.host.config_guard import ConfigGuard
from imagecache.host.containerd_process import unit_at
from imagecache.host.service import HostService, HostSettings
from imagecache.host.service_files import HostFiles, Program
from imagecache.host.systemd import Systemd
from imagecache.settings.choices import Mode, Repair
from imagecache.settings.table import Settings

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class HostContainerdRecords:
    """``host.service.ContainerdRecords``, over the host's socket."""

    files: HostContainerdFiles
    clock: Clock

    def is_loaded(self) -> bool:
        return self._run(SnapshotterRemoval.is_loaded)

    def delete_image_records(self, *, ours: bool = False) -> Sequence[str]:
        try:
            other = self.files.default_snapshotter()
        except ContainerdMisconfigured:
            if ours:
                raise
            other = ""  # a file that cannot be read must not keep images that cannot start
        return self._run(lambda removal: removal.delete_image_records(other, ours=ours))

    def in_use(self) -> int:
        return self._run(SnapshotterRemoval.in_use)

    def remove_snapshots(self) -> None:
        self._run(SnapshotterRemoval.remove_snapshots)

    def release_held(self) -> None:
        self._run(SnapshotterRemoval.release_held)

    def _run(self, work: Callable[[SnapshotterRemoval], Awaitable[_T]]) -> _T:
        settings = self.files.settings
        ours = NATIVE_SNAPSHOTTER if settings.mode is Mode.NATIVE else settings.snapshotter

        async def run() -> _T:
            address = self.files.root / settings.address.relative_to("/")
            async with ContainerdClient(address, self.clock) as containerd:
                return await work(SnapshotterRemoval(containerd, ours))

        return asyncio.run(run())


def open_guard(settings: Settings, clock: Clock, forgotten: Callable[[], None]) -> ConfigGuard | None:
    """For the agent, which runs on the host itself; None when it is no host service. ``forgotten``: see ConfigGuard."""
    files = HostFiles(directory=settings.host_directory)
    if not files.current():
        return None
    # a node may have other containerds that do not run
    drop_in = HostContainerdFiles(settings, lambda: running_version(settings, clock))
    records = HostContainerdRecords(drop_in, clock)

    def service(unit: str) -> HostService:
        found = HostSettings(settings.mode, "", settings.address, containerd_unit=unit)
        return HostService(files, Systemd(), (drop_in, records), found, lambda: _program(settings))

    return ConfigGuard(
        lambda: service(settings.containerd_unit or unit_at(settings.address)),
        clock,
        repair=settings.repair is Repair.AUTO,
        forgotten=forgotten,
        started=service("").containerd_now,
    )


def _program(settings: Settings) -> Program:
    from imagecache.host.runtime_files import runtime_files  # metadata of packages: no guard installs a program

    return runtime_files(settings.host_directory)
