"""What a build needs from outside: images."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from imagecache.oci.descriptor import Descriptor
from imagecache.oci.reference import Reference
from imagecache.oci.resolved import Resolved


class ImageSource(Protocol):
    """Where images come from; errors are of the ``RegistryError`` and ``ContentError`` families."""

    async def resolve(self, reference: Reference) -> Resolved:
        """The index or manifest that the reference names. A digest in the reference is verified."""

    async def document(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A manifest of an index, or a config: whole, bounded by ``limits``, size and digest verified."""

    def stream(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes]:
        """The blob's bytes from ``offset`` on, in order, at most ``descriptor.size`` in all.

        Close it when you stop early. Retries and resumes by itself while that makes sense, then raises. The bytes are
        not verified: the caller hashes them while it writes.
        """
