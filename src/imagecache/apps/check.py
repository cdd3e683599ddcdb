"""``imagecache check``, wired: the store's own check, with the proof of layer images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imagecache.apps.store import open_store
from imagecache.builder import layer_file
from imagecache.builder.converted import Converted
from imagecache.clock import Clock
from imagecache.digest import DiffID, Digest
from imagecache.settings.table import Settings
from imagecache.store.bundle_document import PlacedLayer
from imagecache.store.check import Proofs, Report


def check(settings: Settings, clock: Clock, *, deep: bool, quarantine: bool) -> Report:
    """Verify what the store holds. Raises StoreError."""
    store = open_store(settings, clock)
    return store.check(proofs=Proofs(_verify_placed, _verify_alone) if deep else None, quarantine=quarantine)


def _verify_placed(path: Path, placed: PlacedLayer, lowers: Sequence[Path]) -> Digest:
    return _digest(layer_file.verify_placed(path, placed, lowers))


def _verify_alone(path: Path) -> tuple[DiffID, Digest]:
    proven = layer_file.verify(path)
    return proven.header.diff_id, _digest(proven)


def _digest(proven: Converted) -> Digest:
    assert proven.digest is not None  # noqa: S101 - a layer image that is complete has one
    return proven.digest
