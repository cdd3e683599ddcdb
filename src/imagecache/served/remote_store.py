"""What a node asks of the store that it fetches from, and what a server asks of the cluster about a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from imagecache.digest import Digest
from imagecache.store.model import Bundle, LayerName


@dataclass(frozen=True, slots=True)
class Part:
    """What has come of a layer image that may still be in the making."""

    count: int
    """Bytes; none when nothing new was there for a while."""
    size: int | None
    """Of the finished file; None while it is not finished."""


class RemoteStore(Protocol):
    """Bundles, documents and layer images of another place.

    Every method raises StoreUnreachable when nothing answers (after its own retries), StoreRefused, and StoreError.
    """

    async def bundle(self, bundle_id: str) -> Bundle:
        """The bundle with this id. Raises NotFound, StoreCorrupt, MalformedDocument."""

    async def document(self, digest: Digest) -> bytes:
        """An original manifest, index or config: whole, bounded, verified. Raises BlobNotFound, DigestMismatch."""

    async def layer(self, name: LayerName, offset: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes of a layer image from ``offset`` on.

        They are not verified: the caller hashes them. When this was cancelled, ``target`` may still change for a
        moment. Raises BlobNotFound; StoreCorrupt when the file ends before.
        """

    async def building(self, bundle_id: str) -> tuple[LayerName, ...]:
        """Layer images that a running build of the bundle may come to, in the order in which it makes them."""

    async def partial(self, name: LayerName, offset: int, target: memoryview) -> Part:
        """As ``layer``, of one that may still be in the making, and as much as there is: it may wait for some seconds.

        Of an unfinished one, the first 4096 bytes mean nothing, and all may be wrong: its maker may begin again. Raises
        BlobNotFound when it is neither there nor in the making.
        """


class TokenReviewer(Protocol):
    """Who a bearer token stands for: Kubernetes' TokenReview with our own audience."""

    async def review(self, token: str) -> str | None:
        """The username, such as ``system:serviceaccount:imagecache:imagecache-agent``; None for no valid token.

        Raises an ImageCacheError when nobody can say. The token must not be in it.
        """
