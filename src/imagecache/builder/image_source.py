"""Where a build gets images from: a registry, or in tests an image layout."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from imagecache.oci.descriptor import Descriptor
from imagecache.oci.reference import Reference
from imagecache.oci.resolved import Access, Resolved


class ImageSource(Protocol):
    """Where images come from; errors are of the ``RegistryError`` and ``ContentError`` families."""

    async def resolve(self, reference: Reference) -> Resolved:
        """The index or manifest that the reference names, verified against a digest in the reference."""

    async def document(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A manifest of an index, or a config: whole, bounded by ``limits``, size and digest verified."""

    def stream(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes]:
        """The blob's bytes from ``offset`` on, in order, at most up to ``descriptor.size``.

        Close it when you stop early. It retries and resumes as long as there is progress, then raises. The bytes are
        not verified: the caller hashes them while it writes.
        """

    async def access(self, reference: Reference, layers: Sequence[Descriptor]) -> Access:
        """Who may read the image, by everything that this source was asked of its repository.

        Called when all was read. ``layers`` are those of the image, of which the build may have read none.
        """
