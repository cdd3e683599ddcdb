"""Bounds of the snapshotter, with their defaults. It must not read them from anywhere: ``apps`` does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SnapshotterSettings:
    """Times in seconds.

    containerd has no deadline of its own for a snapshotter and holds a lock while it waits for one (issue 13798), so
    every call here has its own, and calls that may hang with a mount never take the threads of the others.
    """

    mounting_deadline: float = 20.0
    """Prepare, View, Mounts."""
    deadline: float = 10.0
    """Every other call."""
    mounting_threads: int = 16
    metadata_threads: int = 4
    removing_threads: int = 4
    lock_wait: float = 10.0
    """For the transaction, or the mount of the same layer, that another call is in."""
    usage_age: float = 10.0
    """A measured size of a writable snapshot is good for this long (CRI asks for all of them every 10 s)."""
    usage_budget: float = 2.0
    """For measuring one; what was counted until then is answered."""
    rest_after: float = 60.0
    """From a hit until layer images that no container reads are unmounted: who pulls an image often starts it."""
    stop_grace: float = 5.0
    """For calls in flight when the server stops."""
    holder: str = "snapshotter"
    """How the names of our leases begin; several snapshotters may share a store."""
    overlay_options: tuple[str, ...] | None = None
    """Of every overlay; None: ``index=off`` where the kernel knows it."""


DEFAULT = SnapshotterSettings()
