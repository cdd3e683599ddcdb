"""``RemoteStore`` for a directory: a volume that the node sees itself (``dir``)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from imagecache.digest import Digest
from imagecache.errors import StoreCorrupt
from imagecache.served.partial_layers import PartialLayers
from imagecache.served.remote_store import Part
from imagecache.served.store_reader import StoreReader, read_into
from imagecache.store.model import Bundle, LayerName


class DirectoryStore:
    def __init__(self, root: Path) -> None:
        self._reader = StoreReader(root)
        self._growth = PartialLayers(self._reader)

    async def bundle(self, bundle_id: str) -> Bundle:
        return await asyncio.to_thread(self._reader.bundle, bundle_id)

    async def document(self, digest: Digest) -> bytes:
        return await asyncio.to_thread(self._reader.document, digest)

    async def layer(self, name: LayerName, offset: int, target: memoryview) -> None:
        await asyncio.to_thread(self._fill, name, offset, target)

    def _fill(self, name: LayerName, offset: int, target: memoryview) -> None:
        fd, _size = self._reader.open_layer(name)
        try:
            filled = 0
            while filled < len(target):
                count = read_into(fd, target[filled:], offset + filled)
                if not count:
                    raise StoreCorrupt(f"layer image {name} ends before byte {offset + len(target)}")
                filled += count
        finally:
            os.close(fd)

    async def building(self, bundle_id: str) -> tuple[LayerName, ...]:
        return await asyncio.to_thread(self._reader.building, bundle_id)

    async def partial(self, name: LayerName, offset: int, target: memoryview) -> Part:
        return await asyncio.to_thread(self._grow, name, offset, target)

    def _grow(self, name: LayerName, offset: int, target: memoryview) -> Part:
        grown = self._growth.wait(name, offset, offset + len(target))
        try:
            count = max(0, min(len(target), grown.end - offset))
            return Part(read_into(grown.fd, target[:count], offset), grown.size)
        finally:
            os.close(grown.fd)
