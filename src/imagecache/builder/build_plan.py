"""The work of a build: every position once, grouped by the layer whose bytes it needs.

Pure. One layer (diffID) is downloaded and converted once, however many images have it and at however many positions;
each position (chainID) then gets a layer image that is right there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from imagecache.builder.resolve import LayerPosition, ResolvedImage
from imagecache.digest import ChainID, DiffID
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """All positions of one layer."""

    diff_id: DiffID
    blob: Descriptor
    reference: Reference
    """The image through whose repository the layer is downloaded."""
    images: tuple[str, ...]
    positions: tuple[LayerPosition, ...]


def plan(images: Iterable[ResolvedImage]) -> tuple[LayerGroup, ...]:
    """Groups, the largest first: a long conversion that starts last would run alone."""
    positions: dict[DiffID, dict[ChainID, LayerPosition]] = {}
    owners: dict[DiffID, list[ResolvedImage]] = {}
    for image in images:
        for layer in image.layers:
            positions.setdefault(layer.diff_id, {}).setdefault(layer.chain_id, layer)
            known = owners.setdefault(layer.diff_id, [])
            if image not in known:
                known.append(image)
    groups = [
        LayerGroup(
            diff_id=diff_id,
            blob=next(iter(group.values())).blob,
            reference=owners[diff_id][0].reference,
            images=tuple(dict.fromkeys(image.reference.original for image in owners[diff_id])),
            positions=tuple(group.values()),
        )
        for diff_id, group in positions.items()
    ]
    return tuple(sorted(groups, key=lambda group: -group.blob.size))
