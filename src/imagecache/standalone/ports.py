"""What the standalone controller needs: a builder, the built bundles, and a node to attach to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from imagecache.api.building import BuildRequest as BuildRequest  # noqa: PLC0414 - part of the port
from imagecache.builder.build_events import BuildEvent
from imagecache.containerd.api import Attached
from imagecache.store.collect import Collected
from imagecache.store.model import Bundle


class Builder(Protocol):
    async def build(self, request: BuildRequest, emit: Callable[[BuildEvent], None]) -> Bundle:
        """Build and commit the bundle. Raises ImageCacheError; leaves a resumable state when cancelled."""


class Attacher(Protocol):
    async def attach(self, bundle: Bundle) -> Attached:
        """Make the images usable in containerd. Idempotent."""

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle] = ()) -> tuple[str, ...]:
        """Take the records back, except those that a bundle in ``keep`` has too; returns the removed names."""


class Bundles(Protocol):
    """What ``imagecache.store.bundles.Bundles`` offers and this package needs."""

    def get(self, bundle_id: str) -> Bundle:
        """Raises NotFound when there is none: not built yet, or deleted."""

    def all(self) -> Sequence[Bundle]:
        """Every committed bundle."""

    def delete(self, bundle_id: str) -> None:
        """Forget the bundle; what it alone needed goes with the next collection. Raises NotFound."""


class Collector(Protocol):
    """What ``imagecache.store.collect.Collector`` offers and this package needs."""

    def collect(self) -> Collected:
        """Remove what no bundle, no build and no node holds."""
