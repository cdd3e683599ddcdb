"""An ``ImageSource`` that reads OCI layouts on disk: what a build needs, without a registry."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

from imagecache.errors import ImageNotFound
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.reference import Reference
from imagecache.oci.resolved import Access, Resolved
from testkit.oci_layout import Image

_CHUNK = 1 << 20


class LayoutSource:
    """Images by the text of their reference."""

    def __init__(self, images: Mapping[str, Image]) -> None:
        self._images = dict(images)

    async def resolve(self, reference: Reference) -> Resolved:
        image = self._image(reference)
        return Resolved(image.descriptor, image.blob(image.descriptor.digest).read_bytes(), verified=True)

    async def access(self, reference: Reference, layers: Sequence[Descriptor]) -> Access:
        del reference, layers
        return Access(private=False)

    async def document(self, reference: Reference, descriptor: Descriptor) -> bytes:
        return self._image(reference).blob(descriptor.digest).read_bytes()

    async def stream(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes]:
        with self._image(reference).blob(descriptor.digest).open("rb") as file:
            file.seek(offset)
            while chunk := file.read(_CHUNK):
                yield chunk

    def _image(self, reference: Reference) -> Image:
        try:
            return self._images[reference.original]
        except KeyError:
            raise ImageNotFound(f"no such image: {reference.original}", image=reference.original) from None
