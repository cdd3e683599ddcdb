"""containerd's drop-in, wired: the settings, and the version of the containerd on this host."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from imagecache.apps.platform import host_platform
from imagecache.clock import Clock
from imagecache.containerd.modes import remaps_ids
from imagecache.errors import ContainerdMisconfigured, ContainerdUnavailable, InvalidSetting
from imagecache.host.containerd_config import Change, ConfigState, ContainerdConfig
from imagecache.host.containerd_process import config_problem, installed_version
from imagecache.host.dropin import DropInSettings
from imagecache.host.probe_id_maps import why_ids_are_not_mapped
from imagecache.host.service import REFUSED
from imagecache.host.service_files import UNITS, HostFiles
from imagecache.host.systemd import Systemd
from imagecache.host.systemd_units import CONTAINERD, UNINSTALL
from imagecache.settings.table import InodeNumbers, Mode, Repair, Settings


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


def containerd_version(settings: Settings, clock: Clock, root: Path = Path("/"), unit: str = CONTAINERD) -> str:
    """Of the running containerd, else of the program that its unit starts.

    ``root`` is where the host's filesystem is mounted. Raises ContainerdUnavailable when neither can be known.
    """
    try:
        return running_version(settings, clock, root)
    except ContainerdUnavailable:
        found = installed_version(unit_program(unit, root), root)
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

    What makes containerd refuse its configuration is undone, and remembered. Raises ContainerdUnavailable when that is
    no containerd, ContainerdMisconfigured, PrivilegeMissing, StoreError.
    """
    files = files or HostFiles()
    with files.locked(wait=False) as mine:
        if not mine or settings.repair is Repair.REPORT or files.at(UNITS / UNINSTALL).exists():
            return ()
        version = installed_version(program)
        if not version:
            raise ContainerdUnavailable(
                f"{program} is no containerd whose version we know", hint="the agent repairs it when containerd runs"
            )
        config, refused = config_for(settings, version), files.at(REFUSED)
        found = config.look()
        if found.state is ConfigState.OK or (refused.exists() and refused.read_text() == found.fingerprint):
            return ()
        changes = config.install()
        problem = config_problem(settings.containerd_config, program)
        if problem:
            config.undo()
            files.write(REFUSED, config.look().fingerprint, 0o600)
            raise ContainerdMisconfigured(
                f"containerd cannot read its configuration with our drop-in, which was removed: {problem}",
                hint="repair containerd's configuration, then run: imagecache host install",
            )
        return changes
