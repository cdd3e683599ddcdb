"""``imagecache check``, wired: the store's own check, with the proof of layer images."""

from __future__ import annotations

from imagecache.apps.store import open_store
from imagecache.builder import layer_file
from imagecache.clock import Clock
from imagecache.settings.table import Settings
from imagecache.store.check import Proofs, Report


def check(settings: Settings, clock: Clock, *, deep: bool, quarantine: bool) -> Report:
    """Verify what the store holds. Raises StoreError."""
    store = open_store(settings, clock)
    proofs = Proofs(layer_file.verify_placed, lambda path: layer_file.verify(path).header.diff_id)
    return store.check(deep=deep, proofs=proofs, quarantine=quarantine)
