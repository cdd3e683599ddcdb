"""containerd's drop-in, wired: the settings, and the version of the containerd on this host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagecache.apps.platform import host_platform
from imagecache.clock import Clock
from imagecache.containerd.modes import remaps_ids
from imagecache.errors import ContainerdUnavailable, InvalidSetting
from imagecache.host.chroot import in_root
from imagecache.host.config_changes import ConfigChanges
from imagecache.host.containerd_config import Change, ContainerdConfig, Found
from imagecache.host.containerd_process import config_problem, installed_version
from imagecache.host.dropin import DropInSettings
from imagecache.host.probe_id_maps import why_ids_are_not_mapped
from imagecache.host.service_files import HostFiles
from imagecache.host.systemd import Systemd
from imagecache.host.systemd_units import CONTAINERD
from imagecache.settings.choices import InodeNumbers, Mode, Repair
from imagecache.settings.table import Settings


def containerd_config(settings: Settings, clock: Clock) -> ContainerdConfig:
    """Containerd's configuration on this host. Raises InvalidSetting, ContainerdUnavailable."""
    return config_for(settings, containerd_version(settings, clock))


def config_for(settings: Settings, version: str, *, serve_only: bool = False) -> ContainerdConfig:
    """The same for a containerd of this version. Mode auto means proxy here. Raises InvalidSetting."""
    if settings.mode is Mode.PREPULL:
        raise InvalidSetting(
            "prepull mode does not configure containerd: the images are its own there",
            hint="leave containerd as it is, or choose --mode proxy or native",
        )
    return ContainerdConfig(
        settings.containerd_config,
        DropInSettings(
            mode=settings.mode,
            containerd=version,
            platform=str(host_platform()),
            snapshotter=settings.snapshotter,
            socket=settings.agent_socket,
            root=settings.agent_root,
            layers=settings.store / "layers",
            stable_inodes=settings.inode_numbers is InodeNumbers.STABLE,
            serve_only=serve_only,
        ),
        maps_ids=lambda: remaps_ids(version) and not why_ids_are_not_mapped(settings.agent_root),
    )


def containerd_version(settings: Settings, clock: Clock, root: Path = Path("/")) -> str:
    """Of the running containerd, else of the program that its unit starts.

    ``root`` is where the host's filesystem is mounted. Raises ContainerdUnavailable when neither can be known.
    """
    try:
        return running_version(settings, clock, root)
    except ContainerdUnavailable:
        found = installed_version(unit_program(settings.containerd_unit or CONTAINERD, root), root)
        if not found:
            raise
        return found


def running_version(settings: Settings, clock: Clock, root: Path = Path("/")) -> str:
    """Raises ContainerdUnavailable."""
    from imagecache.containerd.client import ContainerdClient  # gRPC: not for a repair before containerd starts

    async def version() -> str:
        async with ContainerdClient(root / settings.address.relative_to("/"), clock) as containerd:
            return await containerd.version()

    return asyncio.run(version())


def unit_program(unit: str, root: Path = Path("/")) -> str:
    """What the unit of containerd starts: a node may have another containerd on its PATH, which counts without one."""
    return Systemd(root).program(unit) or "containerd"


def repair_before_start(settings: Settings, program: str, files: HostFiles | None = None) -> Sequence[Change]:
    """``imagecache host repair``: containerd does not run yet, so the program counts that its unit will start.

    Raises ContainerdUnavailable when that is no containerd, and as ``ConfigChanges.repair_before_start``.
    """
    if settings.repair is Repair.REPORT:
        return ()
    version = installed_version(program)
    if not version:
        raise ContainerdUnavailable(
            f"{program} is no containerd whose version we know", hint="the agent repairs it when containerd runs"
        )
    drop_in = HostContainerdFiles(settings, lambda: version)
    changes = ConfigChanges(files or HostFiles(directory=settings.host_directory), drop_in)
    return changes.repair_before_start(lambda: config_problem(settings.containerd_config, program))


@dataclass(frozen=True, slots=True)
class HostContainerdFiles:
    """``host.config_changes.ContainerdFiles``, in the host's own filesystem."""

    settings: Settings
    version: Callable[[], str]
    """containerd's. Raises ContainerdUnavailable when it cannot be known."""
    root: Path = Path("/")

    def install(self, *, serve_only: bool = False) -> Sequence[Change]:
        version = self.version()
        return in_root(self.root, lambda: config_for(self.settings, version, serve_only=serve_only).install())

    def undo(self) -> Sequence[Change]:
        # whatever the version: after a failed start it cannot be known
        return in_root(self.root, lambda: config_for(self.settings, "").undo())

    def look(self) -> Found:
        version = self.version()
        return in_root(self.root, lambda: config_for(self.settings, version).look())

    def default_snapshotter(self) -> str:
        version = self.version()
        return in_root(self.root, lambda: config_for(self.settings, version).default_snapshotter())
