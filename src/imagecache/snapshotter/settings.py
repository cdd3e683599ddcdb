"""Bounds of the snapshotter, with their defaults. It must not read them from anywhere: ``apps`` does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SnapshotterSettings:
    """Times in seconds.

    containerd has no deadline for a snapshotter and holds a lock while it waits for one (containerd issue 13798). So
    every call here has a deadline, and calls that may hang with a mount never use the threads of the others.
    """

    mounting_deadline: float = 20.0
    """Prepare, View, Mounts."""
    deadline: float = 10.0
    """Every other call."""
    mounting_threads: int = 16
    metadata_threads: int = 4
    removing_threads: int = 4
    lock_wait: float = 10.0
    """Longest wait for another call's transaction, or for its mount of the same layer."""
    usage_age: float = 10.0
    """How long the measured size of a writable snapshot is kept: CRI asks for all of them every 10 s."""
    usage_budget: float = 2.0
    """Longest measurement; after it, the answer is what was counted so far."""
    unmount_idle_after: float = 60.0
    """From a hit until idle layer images are unmounted: an image that is pulled is often started right after."""
    clean_again: float = 1.0
    """From a clean-up that left something to the next; doubled each time that it leaves something again."""
    stop_grace: float = 5.0
    """Longest wait for calls in flight when the server stops."""
    holder: str = "snapshotter"
    """Prefix of our lease holder's name: several snapshotters may share a store."""
    stable_inodes: bool = True
    """Containers get inode numbers of 64 bits that stay, and one device number (``mounts.overlay_options``)."""


DEFAULT = SnapshotterSettings()
