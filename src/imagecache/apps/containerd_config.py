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
from imagecache.host.systemd_units import UNINSTALL
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


def containerd_version(settings: Settings, clock: Clock, root: Path = Path("/")) -> str:
    """Of the running containerd, else of the installed program. ``root`` is where the host's filesystem is mounted."""
    from imagecache.containerd.client import ContainerdClient  # gRPC: not for a repair before containerd starts

    async def running_version() -> str:
        async with ContainerdClient(root / settings.address.relative_to("/"), clock) as containerd:
            return await containerd.version()

    try:
        return asyncio.run(running_version())
    except ContainerdUnavailable:
        found = installed_version(root)
        if not found:
            raise
        return found


def repair_before_start(settings: Settings, files: HostFiles | None = None) -> Sequence[Change]:
    """``imagecache host repair``: containerd does not run yet, so its installed program counts.

    What makes containerd refuse its configuration is undone, and remembered. Raises ContainerdUnavailable without a
    program on the PATH, ContainerdMisconfigured, PrivilegeMissing, StoreError.
    """
    files = files or HostFiles()
    with files.locked(wait=False) as mine:
        if not mine or settings.repair is Repair.REPORT or files.at(UNITS / UNINSTALL).exists():
            return ()
        version = installed_version()
        if not version:
            raise ContainerdUnavailable("no containerd on the PATH", hint="the agent repairs it when containerd runs")
        config, refused = config_for(settings, version), files.at(REFUSED)
        found = config.look()
        if found.state is ConfigState.OK or (refused.exists() and refused.read_text() == found.fingerprint):
            return ()
        changes = config.install()
        problem = config_problem(settings.containerd_config)
        if problem:
            config.undo()
            files.write(REFUSED, config.look().fingerprint, 0o600)
            raise ContainerdMisconfigured(
                f"containerd cannot read its configuration with our drop-in, which was removed: {problem}",
                hint="repair containerd's configuration, then run: imagecache host install",
            )
        return changes
