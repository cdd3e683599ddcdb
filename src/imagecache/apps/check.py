"""``imagecache check``, wired: the store's own check, with the proof of layer images."""

from __future__ import annotations

from pathlib import Path

from imagecache.builder import layer_file
from imagecache.clock import Clock
from imagecache.digest import DiffID, Digest
from imagecache.settings.table import Settings
from imagecache.store.check import Report
from imagecache.store.store import Store


def check(settings: Settings, clock: Clock, *, deep: bool, quarantine: bool) -> Report:
    """Verify what the store holds. Raises StoreError."""
    store = Store.open(settings.store, clock)
    return store.check(verify=_verify if deep else None, quarantine=quarantine)


def _verify(path: Path) -> tuple[DiffID, Digest]:
    proven = layer_file.verify(path)
    assert proven.digest is not None  # noqa: S101 - a layer image that is complete has one
    return proven.header.diff_id, proven.digest
