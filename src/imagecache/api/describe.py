"""A description of one ImageCache for people: its images, its layers, and who shares them. Pure; it must not print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imagecache.api.types import ImageCache
from imagecache.digest import DiffID
from imagecache.store.bundle_document import Bundle
from imagecache.store.layer_name import LayerName


@dataclass(frozen=True, slots=True)
class LayerUse:
    """One layer image of a cache."""

    name: LayerName
    diff_id: DiffID
    size: int
    """Bytes of the layer image file."""
    images: tuple[str, ...]
    """References, as written, of this cache's images that have it."""
    shared_with: tuple[str, ...]
    """Names of the other caches that have it."""


@dataclass(frozen=True, slots=True)
class Description:
    cache: ImageCache
    bundle: Bundle | None
    """None before the build has ended."""
    layers: tuple[LayerUse, ...]
    """In the order of the images, bottom first, each once."""
    busy: bool
    """A process is working on it right now."""


def describe(
    cache: ImageCache, bundle: Bundle | None, caches: Sequence[ImageCache], bundles: Sequence[Bundle], *, busy: bool
) -> Description:
    """``bundle`` is the cache's own; ``caches`` and ``bundles`` are all of the store."""
    if bundle is None:
        return Description(cache, None, (), busy)
    owners = {other.status.image_cache_id: other.name for other in caches if other.status}
    sharers: dict[LayerName, list[str]] = {}
    for other in bundles:
        if other.id != bundle.id:
            for name in other.layer_names():
                sharers.setdefault(name, []).append(owners.get(other.id, other.id))
    return Description(cache, bundle, _layers(bundle, sharers), busy)


def _layers(bundle: Bundle, sharers: dict[LayerName, list[str]]) -> tuple[LayerUse, ...]:
    images: dict[LayerName, list[str]] = {}
    records = {}
    for image in bundle.images:
        for layer in image.layers:
            records[layer.name] = layer
            users = images.setdefault(layer.name, [])
            if image.reference not in users:
                users.append(image.reference)
    return tuple(
        LayerUse(name, layer.diff_id, layer.size, tuple(images[name]), tuple(sorted(sharers.get(name, ()))))
        for name, layer in records.items()
    )
