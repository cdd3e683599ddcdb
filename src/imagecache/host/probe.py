"""All checks of ``doctor``, in the order they are shown. It must not print and must not repair."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagecache.containerd.api import Containerd
from imagecache.host.checks import Check, ok, problem, warning
from imagecache.host.probe_containerd import ContainerdExpectations, check_containerd
from imagecache.host.probe_kernel import check_kernel, check_native, nearest
from imagecache.host.realigned import Realign
from imagecache.limits import GIB
from imagecache.settings.choices import Mode, MountFrom

_FREE = 10 * GIB
"""Below this, a few large images fill the disk."""
_FILES = 65536
"""Open files that the agent needs: when they run out, the whole node stops (containerd issue 13798)."""


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    containerd: ContainerdExpectations
    store: Path
    socket: Path
    """Where our snapshotter listens in proxy mode."""
    mount_from: MountFrom = MountFrom.AUTO
    writes: Path | None = None
    """Where this node writes, when it only reads the store."""


async def diagnose(
    containerd: Containerd, settings: ProbeSettings, *, unsuitable: Sequence[str] = (), realign: Realign | None = None
) -> list[Check]:
    """Check kernel, store, containerd and agent. Never raises for what it finds.

    Args:
        containerd: the one at ``settings.containerd.address``.
        settings: what the checks expect.
        unsuitable: the store's own objections to its directory.
        realign: as for ``KernelMounter``.
    """
    tried = settings.writes or settings.store
    directory = tried if tried.is_dir() else nearest(tried)
    kernel = await asyncio.to_thread(check_kernel, directory, realign, settings.mount_from)
    found, mode = await check_containerd(containerd, settings.containerd)
    agent = [] if mode is Mode.NATIVE else [await asyncio.to_thread(check_socket, settings.socket)]
    if mode is Mode.NATIVE and (zeros := check_native(platform.release())) is not None:
        kernel.append(zeros)
    return [*kernel, *check_store(settings.store, unsuitable, settings.writes), *found, *agent, check_open_files()]


def check_store(root: Path, unsuitable: Sequence[str], writes: Path | None = None) -> list[Check]:
    """The store's directory: it exists, on a suitable filesystem, writable, with space.

    ``writes``: where this node writes, when it only reads the store.
    """
    writes = writes or root
    if not root.is_dir():
        return [warning("store", "directory", f"{root} does not exist yet", "the first imagecache create creates it")]
    checks = [problem("store", "directory", reason, "use another directory with --store") for reason in unsuitable]
    if not os.access(writes, os.W_OK):
        checks.append(problem("store", "directory", f"{writes} cannot be written", "run as root"))
    if not checks:
        checks.append(ok("store", "directory", str(root)))
    usage = shutil.disk_usage(root)
    words = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f}"
    remedy = "free some, or use another directory with --store"
    return [*checks, ok("store", "space", words) if usage.free >= _FREE else warning("store", "space", words, remedy)]


def check_socket(path: Path) -> Check:
    """Something must listen: containerd calls at every pull and start."""
    remedy = "systemctl start imagecache-agent, or run: imagecache agent"
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
    except OSError as error:
        return problem("agent", "socket", f"nothing listens at {path}: {error.strerror}", remedy)
    return ok("agent", "socket", f"listens at {path}")


def check_open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = hard if hard != resource.RLIM_INFINITY else _FILES
    if max(soft, allowed) >= _FILES:
        return ok("agent", "open files", f"{soft} allowed now, {allowed} at most")
    remedy = f"an agent started from this shell needs ulimit -n {_FILES}; its systemd unit sets its own limit"
    return warning("agent", "open files", f"programs started from this shell may open only {allowed}", remedy)
