"""What the snapshotter needs of others: layer images by chainID, mounts, and an observer of what it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from imagecache.digest import ChainID
from imagecache.store.layer_name import LayerName
from imagecache.store.layers import ServedLayer

__all__ = ["LayerProvider", "Mounter", "Observer", "ServedLayer"]


class LayerProvider(Protocol):
    """Answers from memory or with one indexed read, never from the network: containerd is waiting."""

    def lookup(self, chain_id: ChainID, repository: str = "") -> ServedLayer | None:
        """The layer image that serves this chainID, if the store has it at this moment.

        ``repository``: what is pulled; a chain that private images alone have is for pulls of theirs. Empty: not known.
        """

    def lease(self, holder: str, name: LayerName) -> None:
        """Keep the file until ``release``, also when this process dies. Idempotent.

        A power failure may undo the leases of the last seconds: renew them at the start. The file may have been removed
        since ``lookup``: lease first, then check with ``open_layer``, then use it.
        """

    def release(self, holder: str, name: LayerName) -> None:
        """End the lease. Idempotent."""

    def open_layer(self, name: LayerName) -> Path | None:
        """Path of a leased layer image, even if no bundle has it any longer; None if the file does not exist."""


class Mounter(Protocol):
    """Kernel mounts of layer images: read-only, from the file, or on a loop device."""

    def mount(self, image: Path, target: Path) -> None:
        """Make the mountpoint and mount the layer image; a no-op when exactly that is mounted there.

        It may put a second mount of the image over the first, when it has to be mounted in another way by now.

        Raises MountFailed, KernelUnsupported.
        """

    def unmount(self, target: Path) -> None:
        """A no-op when nothing is mounted there. Raises MountFailed when it is busy."""

    def mounted(self, target: Path) -> bool:
        """Whether something is mounted exactly at ``target``."""

    def version(self) -> object:
        """Of what decides how images are mounted: while it is equal, what ``mount`` has done still does.

        Asked at each start of a container: one stat(2) at most, no lock.
        """


class Observer(Protocol):
    """Records what the snapshotter does. Every method is called from any thread, returns at once and never raises."""

    def used(self, layers: Sequence[Path]) -> None:
        """A container is about to read these layer images, the uppermost first."""

    def looked_up(self, *, found: bool) -> None:
        """A layer was looked up by its chainID. ``found``: the store has it, so containerd need not pull it."""

    def released(self) -> None:
        """A lease was released, so a collection may find something to remove."""
