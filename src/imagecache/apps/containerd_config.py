"""containerd's drop-in, wired: the settings, and the version of the containerd on this host."""

from __future__ import annotations

import asyncio
from pathlib import Path

from imagecache.apps.platform import host_platform
from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.modes import remaps_ids
from imagecache.errors import ContainerdUnavailable, InvalidSetting
from imagecache.host.containerd_config import ContainerdConfig
from imagecache.host.containerd_process import installed_version
from imagecache.host.dropin import DropInSettings
from imagecache.host.probe_id_maps import why_ids_are_not_mapped
from imagecache.settings.table import InodeNumbers, Mode, Settings


def containerd_config(settings: Settings, clock: Clock) -> ContainerdConfig:
    """Containerd's configuration on this host. Raises InvalidSetting, ContainerdUnavailable."""
    return config_for(settings, containerd_version(settings, clock))


def config_for(settings: Settings, version: str, *, serve_only: bool = False) -> ContainerdConfig:
    """The same for a containerd of this version. Mode auto means proxy here. Raises InvalidSetting.

    Blocking: it tries what the kernel can do where the snapshotter writes.
    """
    if settings.mode is Mode.PREPULL:
        raise InvalidSetting(
            "prepull mode does not configure containerd: the runtime pulls images itself",
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
            idmapped=remaps_ids(version) and not why_ids_are_not_mapped(settings.agent_root),
            stable_inodes=settings.inode_numbers is InodeNumbers.STABLE,
            serve_only=serve_only,
        ),
    )


def containerd_version(settings: Settings, clock: Clock, root: Path = Path("/")) -> str:
    """Of the running containerd, else of the installed program. ``root`` is where the host's filesystem is mounted."""

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
