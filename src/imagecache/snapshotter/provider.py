"""What the snapshotter needs: layer images by chainID, and mounts. And what it tells: which layers are used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from imagecache.digest import ChainID
from imagecache.store.model import LayerName, ServedLayer

__all__ = ["LayerProvider", "Mounter", "Observer", "ServedLayer"]


class LayerProvider(Protocol):
    """Answers from memory or one indexed read; never from the network."""

    def lookup(self, chain_id: ChainID) -> ServedLayer | None:
        """The layer image that serves this chainID, if the store has it whole right now."""

    def lease(self, holder: str, name: LayerName) -> None:
        """Keep the file until ``release``, also when this process dies. Idempotent.

        A power failure may take what was said in the last seconds: say it again when you start.
        The file may have gone since ``lookup``: hold first, then ask ``open_layer``, then rely on it.
        """

    def release(self, holder: str, name: LayerName) -> None:
        """Let go. Idempotent."""

    def open_layer(self, name: LayerName) -> Path | None:
        """Path of a held layer image, also when no snapshot names it any more; None if the file is gone."""


class Mounter(Protocol):
    """Kernel mounts of layer images: read-only, by mount(2) straight from the file, loop where the kernel needs it."""

    def mount(self, image: Path, target: Path) -> None:
        """Mount the layer image, and make the mountpoint; a no-op when exactly that is mounted there.

        Raises MountFailed, KernelUnsupported.
        """

    def unmount(self, target: Path) -> None:
        """A no-op when nothing is mounted there. Raises MountFailed when busy."""

    def mounted(self, target: Path) -> bool:
        """Whether something is mounted exactly at ``target``."""


class Observer(Protocol):
    """Hears what the snapshotter does. Every method is called from any thread, returns at once and never raises."""

    def used(self, layers: Sequence[Path]) -> None:
        """A container is about to read these layer images, the upper layer first."""

    def looked_up(self, *, found: bool) -> None:
        """A layer was asked for by its chainID; ``found``: the store has it, so that containerd need not pull it."""

    def released(self) -> None:
        """A lease was released, so that a collection may find something to remove."""
