"""The tars in the store's layer images, read from their files: ``containerd.also_unpack.Tars``."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator

from imagecache.erofs.layer_header import DATA_START
from imagecache.errors import BlobNotFound, StoreCorrupt
from imagecache.limits import MIB
from imagecache.oserrors import converting
from imagecache.store.bundle_document import LayerRecord
from imagecache.store.layers import Layers

_PIECE = 4 * MIB


class LayerTars:
    def __init__(self, layers: Layers) -> None:
        self._layers = layers

    async def open(self, layer: LayerRecord) -> AsyncGenerator[bytes]:
        path = self._layers.path(layer.name)
        digest = hashlib.sha256()

        def read(offset: int) -> bytes:
            # opened for each piece: after a cancellation the thread goes on, and must not read what we have closed
            position = DATA_START + offset
            with converting(path):
                try:
                    with path.open("rb", buffering=0) as file:
                        piece = os.pread(file.fileno(), min(_PIECE, layer.tar_size - offset), position)
                        # these bytes are read once; pages that a container has mounted stay
                        os.posix_fadvise(file.fileno(), position, len(piece), os.POSIX_FADV_DONTNEED)
                except FileNotFoundError as error:
                    what = f"{path} is missing from the store"
                    raise BlobNotFound(what, hint="create the image cache again") from error
            digest.update(piece)
            return piece

        offset = 0
        # a file that ends early gives an empty piece, and with it another digest
        while offset < layer.tar_size and (piece := await asyncio.to_thread(read, offset)):
            offset += len(piece)
            yield piece
        if digest.hexdigest() != layer.diff_id.hex:
            raise StoreCorrupt(
                f"{path} does not hold the tar {layer.diff_id}", hint="run: imagecache check --deep --quarantine"
            )
