"""What the standalone controller needs: a builder, the built snapshots, and a node to attach to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from imagecache.api.building import BuildRequest as BuildRequest  # noqa: PLC0414 - part of the port
from imagecache.build.events import BuildEvent
from imagecache.store.collect import Collected
from imagecache.store.model import SnapshotDocument


class Builder(Protocol):
    async def build(self, request: BuildRequest, emit: Callable[[BuildEvent], None]) -> SnapshotDocument:
        """Build and commit the snapshot. Raises ImageCacheError; leaves a resumable state when cancelled."""


@dataclass(frozen=True, slots=True)
class Attached:
    """What attach did."""

    images: tuple[str, ...]
    """Names recorded in containerd."""
    withheld: tuple[str, ...] = ()
    """Private images: layers served, record withheld."""
    missed: tuple[str, ...] = ()
    """Images that this mode cannot attach; a pull fetches only what is missing."""


class Attacher(Protocol):
    async def attach(self, snapshot: SnapshotDocument) -> Attached:
        """Make the images usable in containerd. Idempotent."""

    async def detach(self, snapshot: SnapshotDocument, keep: Sequence[SnapshotDocument] = ()) -> tuple[str, ...]:
        """Take the records back, except those that a snapshot in ``keep`` has too; returns the removed names."""


class Snapshots(Protocol):
    """What ``imagecache.store.snapshots.Snapshots`` offers and this package needs."""

    def get(self, snapshot_id: str) -> SnapshotDocument:
        """Raises NotFound when there is none: not built yet, or deleted."""

    def all(self) -> Sequence[SnapshotDocument]:
        """Every committed snapshot."""

    def delete(self, snapshot_id: str) -> None:
        """Forget the snapshot; what it alone needed goes with the next collection. Raises NotFound."""


class Collector(Protocol):
    """What ``imagecache.store.collect.Collector`` offers and this package needs."""

    def collect(self) -> Collected:
        """Remove what no snapshot, no build and no node holds."""
