"""``imagecache doctor``, wired: the probes of ``host.probe`` with this host's settings."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.erofs.realign import realign
from imagecache.host.checks import Check
from imagecache.host.probe import ProbeSettings, diagnose
from imagecache.host.probe_containerd import ContainerdExpectations
from imagecache.settings.table import Settings
from imagecache.store.store import Store


async def checks(settings: Settings, clock: Clock) -> Sequence[Check]:
    """Everything that a node needs. A store that does not exist is not created."""
    root = settings.store.absolute()
    expected = ContainerdExpectations(
        address=settings.address,
        snapshotter=settings.snapshotter,
        mode=settings.mode,
        root=settings.agent_root,
        layers=root / "layers",
        also_unpack=settings.also_unpack,
    )
    unsuitable = await asyncio.to_thread(_unsuitable, root)
    async with ContainerdClient(settings.address, clock) as containerd:
        return await diagnose(
            containerd,
            ProbeSettings(containerd=expected, store=root, socket=settings.agent_socket),
            unsuitable=unsuitable,
            realign=realign,
        )


def _unsuitable(root: Path) -> Sequence[str]:
    return Store(root).unsuitable() if root.is_dir() else ()
