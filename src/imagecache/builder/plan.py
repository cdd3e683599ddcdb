"""What a build has to make: every chain position once, grouped by the layer whose bytes it needs.

Pure. One layer (diffID) is downloaded and converted once, however many images have it and at however many places; each
place (chainID) then gets a layer image that is right there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from imagecache.builder.resolve import ResolvedImage
from imagecache.digest import ChainID, DiffID
from imagecache.errors import ImageTooLarge
from imagecache.limits import GIB
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class Place:
    """One layer on top of certain others."""

    chain_id: ChainID
    diff_id: DiffID
    blob: Descriptor
    below: tuple[ChainID, ...]
    """ChainIDs of the layers below, top to bottom."""

    @property
    def bottom(self) -> bool:
        return not self.below


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """All places of one layer."""

    diff_id: DiffID
    blob: Descriptor
    reference: Reference
    """An image to fetch it through."""
    images: tuple[str, ...]
    places: tuple[Place, ...]


def plan(images: Iterable[ResolvedImage]) -> tuple[LayerGroup, ...]:
    """Groups, biggest first: a long conversion that starts last would run alone."""
    places: dict[DiffID, dict[ChainID, Place]] = {}
    owners: dict[DiffID, list[ResolvedImage]] = {}
    for image in images:
        for depth, layer in enumerate(image.layers):
            below = tuple(lower.chain_id for lower in reversed(image.layers[:depth]))
            place = Place(layer.chain_id, layer.diff_id, layer.blob, below)
            places.setdefault(layer.diff_id, {}).setdefault(layer.chain_id, place)
            known = owners.setdefault(layer.diff_id, [])
            if image not in known:
                known.append(image)
    groups = [
        LayerGroup(
            diff_id=diff_id,
            blob=next(iter(group.values())).blob,
            reference=owners[diff_id][0].reference,
            images=tuple(image.reference.original for image in owners[diff_id]),
            places=tuple(group.values()),
        )
        for diff_id, group in places.items()
    ]
    return tuple(sorted(groups, key=lambda group: -group.blob.size))


class Budget:
    """``imageCacheSize``: the layer images of a cache together, each counted once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._sizes: dict[str, int] = {}

    def take(self, name: str, size: int) -> None:
        """Count a layer image. Raises ImageTooLarge when the images do not fit."""
        if name in self._sizes:
            return
        self._sizes[name] = size
        self.used += size
        if self.used > self.limit:
            raise too_large(self.used, self.limit, "unpacked")

    def precheck(self, groups: Iterable[LayerGroup]) -> None:
        """Refuse before the first byte what cannot fit even compressed."""
        compressed = sum(group.blob.size for group in groups)
        if compressed > self.limit:
            raise too_large(compressed, self.limit, "compressed")


def too_large(need: int, limit: int, how: str) -> ImageTooLarge:
    gib = -(-need // GIB)
    return ImageTooLarge(
        f"the images need more than imageCacheSize: {need / GIB:.2f} GiB {how} so far, {limit / GIB:.0f} GiB allowed",
        hint=f"set spec.imageCacheSize to {2 * gib} or more (twice the images is a good rule), or list fewer images",
    )
