"""``imagecache doctor``, wired: the probes of ``host.probe`` with this host's settings."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from imagecache.apps.containerd_config import containerd_config
from imagecache.apps.store import store_paths
from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.erofs.realign import realign
from imagecache.errors import ContainerdUnavailable, ImageCacheError
from imagecache.host.checks import Check, failed
from imagecache.host.lease_holders import is_shared
from imagecache.host.probe import ProbeSettings, diagnose
from imagecache.host.probe_config import check_files
from imagecache.host.probe_containerd import ContainerdExpectations
from imagecache.settings.table import Mode, Settings
from imagecache.store.paths import StorePaths
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
    paths = store_paths(settings)
    reads = is_shared(settings) and paths.is_shared
    unsuitable = await asyncio.to_thread(_unsuitable, paths, reads=reads)
    async with ContainerdClient(settings.address, clock) as containerd:
        found = await diagnose(
            containerd,
            ProbeSettings(
                containerd=expected,
                store=root,
                socket=settings.agent_socket,
                mount_from=settings.mount_from,
                writes=paths.written_by_nodes if reads else None,
            ),
            unsuitable=unsuitable,
            realign=realign,
        )
    return [*found, *await asyncio.to_thread(_files, settings, clock)]


def _files(settings: Settings, clock: Clock) -> Sequence[Check]:
    """Containerd's files, where they are seen from here and the settings say for which mode they are."""
    if settings.mode not in {Mode.PROXY, Mode.NATIVE} or not settings.containerd_config.exists():
        return ()
    try:
        check = check_files(containerd_config(settings, clock).look())
    except ContainerdUnavailable:  # the check of the connection has said it
        return ()
    except ImageCacheError as error:
        return (failed("containerd", "next start", error),)
    return (check,) if check is not None else ()


def _unsuitable(paths: StorePaths, *, reads: bool) -> Sequence[str]:
    if not paths.root.is_dir():
        return ()
    store = Store(paths.root, leases=paths.written_by_nodes)
    return store.unsuitable_for_nodes() if reads else store.unsuitable()
