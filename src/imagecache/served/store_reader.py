"""A store that is only read: what the server serves, and what a node reads from a volume (``dir``).

Nothing is written, not even to the quarantine, so a volume may be mounted read-only. It must not verify layer images:
the node that fetches them does.
"""

from __future__ import annotations

import os
from pathlib import Path

from imagecache.digest import Digest
from imagecache.erofs.layer_header import DATA_START, tar_length
from imagecache.errors import BlobNotFound
from imagecache.oci.descriptor import Descriptor
from imagecache.oserrors import converting
from imagecache.store.blobs import Blobs
from imagecache.store.bundle_document import Bundle, build_name, bundle_of
from imagecache.store.bundles import Bundles
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.layers import Layers
from imagecache.store.leases import Leases
from imagecache.store.paths import StorePaths


class StoreReader:
    """Blocking reads of the store at ``root``, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self._paths = StorePaths(root)
        self._blobs = Blobs(self._paths, quarantine=False)
        self._bundles = Bundles(self._paths, self._blobs)
        self._layers = Layers(self._paths)
        self._leases = Leases(self._paths)

    def bundle(self, bundle_id: str) -> Bundle:
        """Raises NotFound, BlobNotFound, StoreCorrupt, StoreError."""
        return self._bundles.get(bundle_id)

    def entries(self) -> tuple[Descriptor, ...]:
        """Of all bundles, for ``load``. Raises StoreCorrupt, StoreError."""
        return self._bundles.index().manifests

    def load(self, entry: Descriptor) -> Bundle:
        """Raises BlobNotFound, StoreCorrupt, StoreError."""
        return self._bundles.load(entry)

    def version(self) -> tuple[int, int]:
        """Of the set of bundles: another one after each change. Raises StoreError."""
        with converting(self._bundles.index_path):
            found = self._bundles.index_path.stat()
        return found.st_ino, found.st_mtime_ns

    def document(self, digest: Digest) -> bytes:
        """Raises BlobNotFound, StoreCorrupt, StoreError."""
        return self._blobs.read(digest)

    def open_layer(self, name: LayerName) -> tuple[int, int]:
        """A descriptor to read from, which the caller closes, and the file's size. Raises BlobNotFound, StoreError."""
        path = self._paths.layer(name)
        with converting(path):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError as error:
                raise BlobNotFound(
                    f"layer image {name} is missing from the store", hint="create the image cache again"
                ) from error
            return fd, os.fstat(fd).st_size

    def building(self, bundle_id: str, architecture: str) -> tuple[LayerName, ...]:
        """Layer images that a running build of the bundle may make or use for an architecture, in its order.

        Only those that are right at any position (``layers/``). Raises StoreError.
        """
        wanted = self._leases.wanted_by(build_name(bundle_id, architecture))
        return tuple(name for name in wanted if name.space is Space.LAYERS)

    def builds_with(self, name: LayerName) -> list[str]:
        """Ids of the bundles whose running builds may make or use a layer image. Raises StoreError."""
        return [bundle_of(build) for build in self._leases.builds_with(name)]

    def open_partial(self, name: LayerName) -> int | None:
        """The file of a partial layer, which the caller closes; None: finished, or not made. Raises StoreError."""
        return None if self._layers.has(name) else self._layers.open_partial(name)

    def tar_extent(self, fd: int) -> tuple[int, bool]:
        """Where the tar in the file of a partial layer ends, and whether the tar is complete.

        Raises StoreError, and MalformedLayer for a head that is being written at this moment.
        """
        with converting("a layer image"):
            # The size first: the writer notes the tar's length in the head and then appends metadata. A size that was
            # read before a head without a length can only be bytes of the tar.
            size = os.fstat(fd).st_size
            tar = tar_length(os.pread(fd, DATA_START, 0))
        return (size, False) if tar is None else (min(size, DATA_START + tar), True)

    def ready(self) -> None:
        """Raises StoreError when the store cannot be read."""
        self._bundles.index()


def read_into(fd: int, target: memoryview, offset: int) -> int:
    """Read at most ``len(target)`` bytes; returns how many, 0 at the end of the file. Raises StoreError."""
    with converting("a layer image"):
        return os.preadv(fd, [target], offset)
