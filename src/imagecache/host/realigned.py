"""Copies of layer images with 4096-byte blocks, for kernels that refuse the 512-byte blocks of the originals.

One copy per layer and node, made at the first mount and deleted at the unmount. The caller passes the function that
copies (``erofs.realign``). It must not change the original.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

Realign = Callable[[Path, int], object]
"""Writes the layer image at the path into the file descriptor, with 4096-byte blocks. Raises OSError or our errors."""


class RealignedCopies:
    def __init__(self, directory: Path, realign: Realign) -> None:
        self._directory = directory
        self._realign = realign

    def path(self, image: Path) -> Path:
        """Path of the copy of ``image``, whether it exists or not; it is named by the original's path."""
        return self._directory / f"{hashlib.sha256(os.fsencode(image)).hexdigest()}.erofs"

    def of(self, image: Path) -> Path:
        """The copy, made when it does not exist; it appears whole or not at all."""
        copy = self.path(image)
        if copy.exists():
            return copy
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self._directory, prefix="new-")
        try:
            self._realign(image, descriptor)
            os.fsync(descriptor)
            Path(temporary).rename(copy)
        except BaseException:
            Path(temporary).unlink()
            raise
        finally:
            os.close(descriptor)
        return copy

    def drop(self, path: str) -> None:
        """Delete the copy at ``path``; a no-op when the path is not a copy of ours."""
        if Path(path).parent == self._directory:
            Path(path).unlink(missing_ok=True)
