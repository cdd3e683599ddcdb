"""``imagecache doctor``, wired: the node's probes with this host's settings, in the command line's words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from imagecache.apps.attach import MODES
from imagecache.cli.application import Check, Severity
from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.erofs.realign import realign
from imagecache.host.probe import ProbeSettings, diagnose
from imagecache.host.probe_containerd import ContainerdExpectations
from imagecache.settings.table import Settings
from imagecache.store.store import Store


async def checks(root: Path, settings: Settings, clock: Clock) -> Sequence[Check]:
    """Everything that a node needs. ``root`` is the store's place; a store that is not there is not made."""
    expected = ContainerdExpectations(
        address=settings.address,
        snapshotter=settings.snapshotter,
        mode=MODES[settings.mode],
        root=settings.agent_root,
        layers=root / "layers",
    )
    unsuitable = await asyncio.to_thread(_unsuitable, root)
    async with ContainerdClient(settings.address, clock) as containerd:
        found = await diagnose(
            containerd,
            ProbeSettings(containerd=expected, store=root, socket=settings.agent_socket),
            unsuitable=unsuitable,
            realign=realign,
        )
    return [Check(each.area, each.name, Severity(int(each.status)), each.detail, each.remedy) for each in found]


def _unsuitable(root: Path) -> Sequence[str]:
    return Store(root).unsuitable() if root.is_dir() else ()
