"""Mounts of this host, wired: the kernel's mounter, and images mounted straight from the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imagecache.clock import Clock
from imagecache.erofs.realign import realign
from imagecache.host.image_mounts import ImageMounts
from imagecache.host.mounter import KernelMounter
from imagecache.settings.table import Settings
from imagecache.store.store import Store

if TYPE_CHECKING:
    from imagecache.telemetry.metrics import Metrics

REALIGNED = Path("/var/lib/imagecache-realigned")
"""Copies with 4096-byte blocks, for kernels that need them; of this host alone, so never in a shared store."""


def mounter(metrics: Metrics | None = None) -> KernelMounter:
    return KernelMounter(realign=realign, copies=REALIGNED, metrics=metrics)


def image_mounts(settings: Settings, clock: Clock) -> ImageMounts:
    """Raises StoreError."""
    return ImageMounts(Store.open(settings.store, clock), mounter())
