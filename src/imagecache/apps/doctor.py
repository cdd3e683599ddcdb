"""``imagecache doctor``, wired: the probes of ``host.probe`` with this host's settings."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from imagecache import sandbox
from imagecache.apps.containerd_config import containerd_config
from imagecache.apps.store import store_paths
from imagecache.builder.worker_pool import WorkerPool
from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.erofs.realign import realign
from imagecache.errors import ContainerdUnavailable, ImageCacheError
from imagecache.host.checks import Check, failed, ok, problem
from imagecache.host.lease_holders import is_shared
from imagecache.host.probe import ProbeSettings, diagnose
from imagecache.host.probe_config import check_files
from imagecache.host.probe_containerd import ContainerdExpectations
from imagecache.settings.choices import Mode
from imagecache.settings.table import Settings
from imagecache.store.paths import StorePaths
from imagecache.store.store import Store

_START_SECONDS, _LOOK_SECONDS = 30.0, 0.01
"""A worker is an interpreter that starts: some tenths of a second."""


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
    return [*found, await _isolation(), *await asyncio.to_thread(_files, settings, clock)]


async def _isolation() -> Check:
    """What the kernel says of a process that is about to read layers, by starting one."""
    area, name = "host", "isolation of workers"
    async with WorkerPool(1) as pool, pool.worker("") as worker:
        async with asyncio.timeout(_START_SECONDS):
            while not worker.ended:
                if len(locks := sandbox.in_force(worker.pid)) == len(sandbox.LOCKS):
                    abi = sandbox.landlock_abi()
                    landlock = f"landlock (ABI {abi})" if abi else "this kernel has no Landlock"
                    return ok(area, name, f"{', '.join(locks)}, {landlock}")
                await asyncio.sleep(_LOOK_SECONDS)
    return problem(
        area,
        name,
        "a process that reads layers cannot give up its rights, so no layer is read here",
        "its message above says why; a container runtime's seccomp profile must allow seccomp and landlock_*",
    )


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
