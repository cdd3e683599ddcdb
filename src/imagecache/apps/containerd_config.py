"""containerd's drop-in, wired: the settings, and the version of the containerd that is here."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

from imagecache.apps.platform import host_platform
from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.errors import ContainerdUnavailable, InvalidSetting
from imagecache.host.containerd_config import Installation
from imagecache.host.dropin import DropInSettings
from imagecache.settings.table import Mode, Settings

_VERSION = re.compile(r"\bv?(\d+\.\d+\.\d+\S*)")
_SECONDS = 10


def drop_in(settings: Settings, clock: Clock) -> Installation:
    """The drop-in of this host. Raises InvalidSetting, ContainerdUnavailable."""
    return installation(settings, containerd_version(settings, clock))


def installation(settings: Settings, version: str, *, leaving: bool = False) -> Installation:
    """The drop-in of a host with this version of containerd. Mode auto means proxy here. Raises InvalidSetting."""
    if settings.mode is Mode.PREPULL:
        raise InvalidSetting(
            "mode prepull has no configuration of containerd: the runtime pulls by itself",
            hint="leave containerd as it is, or choose --mode proxy or native",
        )
    return Installation(
        settings.containerd_config,
        DropInSettings(
            mode=settings.mode,
            containerd=version,
            platform=str(host_platform()),
            snapshotter=settings.snapshotter,
            socket=settings.agent_socket,
            root=settings.agent_root,
            layers=settings.store / "layers",
            leaving=leaving,
        ),
    )


def containerd_version(settings: Settings, clock: Clock, root: Path = Path("/")) -> str:
    """Of the containerd that runs, else of the program that would. ``root`` is where the host's filesystem is."""

    async def ask() -> str:
        async with ContainerdClient(root / settings.address.relative_to("/"), clock) as containerd:
            return await containerd.version()

    try:
        return asyncio.run(ask())
    except ContainerdUnavailable as unavailable:
        inside = [] if root == Path("/") else ["chroot", str(root)]
        try:
            words = subprocess.run(
                [*inside, "containerd", "--version"], capture_output=True, text=True, timeout=_SECONDS, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            raise unavailable from None
        match = _VERSION.search(words)
        if match is None:
            raise
        return match[1]
