"""What a transfer needs of whoever proves layer images. ``verify`` has the one that does it in a worker process."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from imagecache.digest import DiffID
from imagecache.fetch.buffers import Slots
from imagecache.store.model import LayerRecord


class Proof(Protocol):
    """Of one layer image, whose bytes come in order."""

    async def arrived(self, offset: int, size: int) -> None:
        """The next ``size`` bytes of the layer image are at ``offset`` of the memory; ``finish`` says what is wrong."""

    async def consumed(self) -> None:
        """Returns when the memory of all that has arrived may be used again."""

    async def finish(self) -> None:
        """All bytes are in the file, and its tar has the diffID: prove that the rest follows from the tar.

        Raises of the ContentError family, StoreCorrupt.
        """


class Verifier(Protocol):
    def proves(self, layer: LayerRecord) -> bool:
        """Whether the proof is of every byte beside the tar, so that the digest of the whole file adds nothing."""

    def proof(
        self, diff_id: DiffID, tar_size: int | None, path: Path, slots: Slots
    ) -> AbstractAsyncContextManager[Proof]:
        """Begin with a layer image that is written to ``path`` and arrives in ``slots``. May wait for its turn.

        Without ``tar_size`` it arrives from the tar's first byte on, and what precedes that is in the file in the end.
        """
