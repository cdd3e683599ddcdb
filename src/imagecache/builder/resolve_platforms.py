"""One reference for several platforms: its name is looked up once, so that all images are of one index.

It must not know what the platforms are for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from imagecache import foreign_json
from imagecache.builder.image_source import ImageSource
from imagecache.builder.resolve import ResolvedImage, resolve
from imagecache.errors import MalformedDocument, NoMatchingPlatform
from imagecache.limits import Limits
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.platform import matches
from imagecache.oci.reference import Reference
from imagecache.oci.resolved import Access, Resolved


@dataclass(frozen=True, slots=True)
class Platforms:
    """Of the machines that a bundle is for."""

    wanted: tuple[Platform, ...]
    complete: bool = True
    """Every image must have all of them; otherwise each is built for those that it has."""


async def resolve_platforms(
    source: ImageSource, reference: Reference, platforms: Platforms, limits: Limits
) -> list[ResolvedImage]:
    """The images of a reference, in the order of the platforms, each with the one that it is for.

    Raises NoMatchingPlatform when the reference lacks one of them (``complete``), or all; and as ``resolve``.
    """
    once, found = _LookedUpOnce(source), list[ResolvedImage]()
    lacking: NoMatchingPlatform | None = None
    for platform in platforms.wanted:
        try:
            image = await resolve(once, reference, platform, limits)
        except NoMatchingPlatform as error:
            if platforms.complete:
                raise
            lacking = lacking or error
        else:
            # of the nodes that take it: an amd64 node takes an image for 386
            found.append(dataclasses.replace(image, platform=platform))
    if lacking is not None and not found:
        raise lacking
    fitting = [image for image in found if not _says_another(image)]
    return found if platforms.complete else fitting or found


def _says_another(image: ResolvedImage) -> bool:
    """A manifest that no index lists can be used for any platform; its config says which one it was made for."""
    *listed, (_descriptor, config) = image.documents
    if len(listed) > 1:
        return False
    try:
        stated = foreign_json.decode(config, Platform, conflicts=False)
    except MalformedDocument:
        return False  # one of its optional fields is odd, so it says nothing
    return bool(stated.architecture) and not matches(image.platform, stated)


class _LookedUpOnce:
    """``ImageSource`` for one reference. A tag may move between two look-ups."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._resolved: Resolved | None = None

    async def resolve(self, reference: Reference) -> Resolved:
        if self._resolved is None:
            self._resolved = await self._source.resolve(reference)
        return self._resolved

    async def document(self, reference: Reference, descriptor: Descriptor) -> bytes:
        return await self._source.document(reference, descriptor)

    def stream(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes]:
        return self._source.stream(reference, descriptor, offset)

    async def access(self, reference: Reference, layers: Sequence[Descriptor]) -> Access:
        return await self._source.access(reference, layers)
