"""The tars in the layer images of a remote store, by range: ``containerd.also_unpack.Tars``.

For a node whose runtime unpacks them (prepull mode): nothing is written here, and no layer image is kept. A tar is
hashed as it comes. It must not know who wants it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable

from imagecache.erofs.layer_header import DATA_START
from imagecache.errors import StoreCorrupt
from imagecache.fetch.remote_store import RemoteStore
from imagecache.limits import MIB
from imagecache.store.bundle_document import LayerRecord

_PIECE = 4 * MIB
"""One request, and one message to containerd: some copies of it are in memory at a time."""


class RemoteTars:
    def __init__(self, remote: RemoteStore, fetched: Callable[[int], None]) -> None:
        """``fetched`` gets the bytes of each piece."""
        self._remote = remote
        self._fetched = fetched

    async def open(self, layer: LayerRecord) -> AsyncGenerator[bytes]:
        digest = hashlib.sha256()
        for offset in range(0, layer.tar_size, _PIECE):
            piece = bytearray(min(_PIECE, layer.tar_size - offset))
            await self._remote.layer(layer.name, DATA_START + offset, memoryview(piece))
            await asyncio.to_thread(digest.update, piece)
            self._fetched(len(piece))
            yield bytes(piece)
        if digest.hexdigest() != layer.diff_id.hex:
            raise StoreCorrupt(
                f"the store's layer image {layer.name} does not hold the tar {layer.diff_id}",
                hint="on the controller's store, run: imagecache check --deep --quarantine",
            )
