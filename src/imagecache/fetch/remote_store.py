"""The store that a node fetches from: what a transfer needs of it. ``served.store_client`` implements it over HTTPS."""

from __future__ import annotations

from typing import Protocol

from imagecache.digest import Digest
from imagecache.served.store_client import BlockRead, PartialRead
from imagecache.store.layer_name import LayerName


class RemoteStore(Protocol):
    """Bundles, documents and layer images of another place.

    Every method raises StoreUnreachable when nothing answers (after its own retries), StoreRefused, and StoreError.
    """

    async def bundle(self, bundle_id: str) -> bytes:
        """The document of the bundle with this id: whole, bounded, and not verified. Raises NotFound, StoreCorrupt."""

    async def document(self, digest: Digest) -> bytes:
        """An original manifest, index or config: whole, bounded, verified. Raises BlobNotFound, DigestMismatch."""

    async def layer(self, name: LayerName, offset: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes of a layer image from ``offset`` on.

        They are not verified: the caller hashes them. After a cancellation, ``target`` may still change for a moment.
        Raises BlobNotFound; StoreCorrupt when the file ends before.
        """

    async def block(self, name: LayerName, number: int, target: memoryview) -> BlockRead:
        """Fill ``target`` with a block (``served.protocol.BLOCK``) of a finished layer image, perhaps compressed.

        ``target`` has the size of the block. Otherwise as ``layer``.
        """

    async def building(self, bundle_id: str, architecture: str) -> tuple[LayerName, ...]:
        """Layer images that a running build of the bundle may make for an architecture, in the order in which it does.

        Empty while no build runs.
        """

    async def partial(self, name: LayerName, offset: int, target: memoryview) -> PartialRead:
        """As ``layer``, of one that a build may still be writing: as much as exists, after some seconds at most.

        Of an unfinished one, the first 4096 bytes mean nothing, and all may be wrong: its build may begin again. Raises
        BlobNotFound when it does not exist and no build is writing it.
        """
