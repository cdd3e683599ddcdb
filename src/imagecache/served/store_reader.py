"""A store read in place: what the server serves, and what a node reads of a volume (``dir``).

Nothing is written, not even a quarantine, so that a volume may be mounted read-only. It must not verify layer images:
who fetches them does.
"""

from __future__ import annotations

import os
from pathlib import Path

from imagecache.digest import Digest
from imagecache.erofs.layer_header import DATA_START, tar_length
from imagecache.errors import BlobNotFound
from imagecache.oserrors import converting
from imagecache.store.blobs import Blobs
from imagecache.store.bundles import Bundles
from imagecache.store.layers import Layers
from imagecache.store.leases import Leases
from imagecache.store.model import Bundle, LayerName, Space
from imagecache.store.paths import StorePaths


class StoreReader:
    """Blocking reads of the store at ``root``; nothing of it needs to be there yet."""

    def __init__(self, root: Path) -> None:
        self._paths = StorePaths(root)
        self._blobs = Blobs(self._paths, quarantine=False)
        self._bundles = Bundles(self._paths, self._blobs)
        self._layers = Layers(self._paths)
        self._leases = Leases(self._paths)

    def bundle(self, bundle_id: str) -> Bundle:
        """Raises NotFound, BlobNotFound, StoreCorrupt, StoreError."""
        return self._bundles.get(bundle_id)

    def document(self, digest: Digest) -> bytes:
        """Raises BlobNotFound, StoreCorrupt, StoreError."""
        return self._blobs.read(digest)

    def open_layer(self, name: LayerName) -> tuple[int, int]:
        """A descriptor to read from, the caller's to close, and the file's size. Raises BlobNotFound, StoreError."""
        path = self._paths.layer(name)
        with converting(path):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError as error:
                raise BlobNotFound(
                    f"the store lacks layer image {name}", hint="create the image cache again"
                ) from error
            return fd, os.fstat(fd).st_size

    def building(self, bundle_id: str) -> tuple[LayerName, ...]:
        """Layer images of a bundle that is being built, as far as they may serve every place of an image.

        In the build's order; none when nobody builds it. Raises StoreError.
        """
        return tuple(name for name in self._leases.wanted_by(bundle_id) if name.space is Space.LAYERS)

    def open_partial(self, name: LayerName) -> int | None:
        """The unfinished file of a layer image that is being made, the caller's to close. Raises StoreError.

        None: it is finished, or nobody makes it.
        """
        return None if self._layers.has(name) else self._layers.open_partial(name)

    def extent(self, fd: int) -> tuple[int, bool]:
        """Where the tar in an unfinished file ends, and whether the whole tar is there.

        Raises StoreError, and MalformedLayer for a head that is written at this moment. The size is looked at first:
        what follows the tar is written after its end was noted in the head.
        """
        with converting("a layer image"):
            size = os.fstat(fd).st_size
            tar = tar_length(os.pread(fd, DATA_START, 0))
        return (size, False) if tar is None else (min(size, DATA_START + tar), True)

    def ready(self) -> None:
        """Raises StoreError when there is no store to read."""
        self._bundles.index()


def read_into(fd: int, target: memoryview, offset: int) -> int:
    """At most as many bytes as ``target`` has; says how many, none at the end. Raises StoreError."""
    with converting("a layer image"):
        return os.preadv(fd, [target], offset)
