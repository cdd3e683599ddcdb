"""Mounts of this host, wired: the kernel's mounter, and images mounted straight from the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imagecache.clock import Clock
from imagecache.erofs.realign import realign
from imagecache.host.image_mounts import ImageMounts
from imagecache.host.mounter import KernelMounter
from imagecache.settings.table import InodeNumbers, Settings
from imagecache.snapshotter.mounts import overlay_options
from imagecache.store.store import Store

if TYPE_CHECKING:
    from imagecache.telemetry.metrics import Metrics

REALIGNED = Path("/var/lib/imagecache-realigned")
"""Copies with 4096-byte blocks, for kernels that need them; of this host alone, so never in a shared store."""


def mounter(metrics: Metrics | None = None, overlays: Sequence[str] = ()) -> KernelMounter:
    """``overlays``: options of every overlay that it mounts itself."""
    return KernelMounter(realign=realign, copies=REALIGNED, overlays=overlays, metrics=metrics)


def image_mounts(settings: Settings, clock: Clock) -> ImageMounts:
    """Raises StoreError."""
    stable = settings.inode_numbers is InodeNumbers.STABLE
    overlays = overlay_options(layer_images=True, stable_inodes=stable)
    return ImageMounts(Store.open(settings.store, clock), mounter(overlays=overlays))
