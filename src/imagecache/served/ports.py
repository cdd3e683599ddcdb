"""What a node asks of the store that it fetches from, and what a server asks of the cluster about a token."""

from __future__ import annotations

from typing import Protocol

from imagecache.digest import Digest
from imagecache.store.model import LayerName, SnapshotDocument


class RemoteStore(Protocol):
    """Snapshots, documents and layer images of another place.

    Every method raises StoreUnreachable when nothing answers (after its own retries), StoreRefused, and StoreError.
    """

    async def snapshot(self, snapshot_id: str) -> SnapshotDocument:
        """The snapshot with this id. Raises NotFound, StoreCorrupt, MalformedDocument."""

    async def document(self, digest: Digest) -> bytes:
        """An original manifest, index or config: whole, bounded, verified. Raises BlobNotFound, DigestMismatch."""

    async def layer(self, name: LayerName, offset: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes of a layer image from ``offset`` on.

        They are not verified: the caller hashes them. When this was cancelled, ``target`` may still change for a
        moment. Raises BlobNotFound; StoreCorrupt when the file ends before.
        """


class TokenReviewer(Protocol):
    """Who a bearer token stands for: Kubernetes' TokenReview with our own audience."""

    async def review(self, token: str) -> str | None:
        """The username, such as ``system:serviceaccount:imagecache:imagecache-agent``; None for no valid token.

        Raises an ImageCacheError when nobody can say. The token must not be in it.
        """
