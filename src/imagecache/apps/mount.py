"""Mounts of this host, wired: the kernel's mounter, and images mounted straight from the store."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imagecache.agent.direct_layers import DirectLayers
from imagecache.api.nodes import HOST
from imagecache.apps.platform import host_platform
from imagecache.apps.store import open_node_store, store_paths
from imagecache.clock import Clock
from imagecache.erofs.realign import realign
from imagecache.host.erofs_kernel import needs_loop
from imagecache.host.image_mounts import ImageMounts
from imagecache.host.mounter import KernelMounter, OnLoop
from imagecache.settings.choices import InodeNumbers
from imagecache.settings.table import Settings
from imagecache.snapshotter.mounts import overlay_options

if TYPE_CHECKING:
    from imagecache.telemetry.metrics import Metrics

REALIGNED = Path("/var/lib/imagecache-realigned")
"""Copies with 4096-byte blocks, for kernels that need them; of this host alone, so never in a shared store."""


def mounter(
    settings: Settings, metrics: Metrics | None = None, overlays: Sequence[str] = (), *, release: str = ""
) -> KernelMounter:
    """Of what layer images are mounted from, the settings, the kernel and the caches of this node decide.

    Args:
        settings: of this node.
        metrics: as for ``KernelMounter``.
        overlays: options of every overlay that it mounts itself.
        release: of the kernel; empty: the running one's.
    """
    always = needs_loop(settings.mount_from, release or platform.release())
    paths = store_paths(settings)
    asked = DirectLayers(paths.nodes / (settings.node_name or HOST), paths.layer)
    return KernelMounter(
        realign=realign,
        copies=REALIGNED,
        overlays=overlays,
        on_loop=OnLoop(lambda image: always or asked(image), asked.version),
        metrics=metrics,
    )


def image_mounts(settings: Settings, clock: Clock) -> ImageMounts:
    """Raises StoreError."""
    stable = settings.inode_numbers is InodeNumbers.STABLE
    overlays = overlay_options(layer_images=True, stable_inodes=stable)
    return ImageMounts(open_node_store(settings, clock), mounter(settings, overlays=overlays), host_platform())
