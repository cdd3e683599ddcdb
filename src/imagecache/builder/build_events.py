"""The events of a running build.

A build emits ``Planned`` once, then any number of ``Advanced`` and per-image events, and ends by returning the bundle
or raising. ``done`` only grows and reaches exactly ``total``. Both count bytes of the compressed layers: each unique
layer twice, once when downloaded and once when converted; a layer that the store already has is done in the first
event. It must not do I/O.
"""

from __future__ import annotations

import msgspec

from imagecache.digest import Digest


class LayerPlan(msgspec.Struct, frozen=True):
    digest: Digest
    """Of the compressed blob."""
    size: int
    """Compressed bytes."""
    cached: bool
    images: tuple[str, ...]
    """References, as written, of the images that have this layer."""


class ImageResolved(msgspec.Struct, tag=True, frozen=True):
    image: str
    digest: Digest
    layers: int
    size: int
    """Compressed bytes of all its layers."""


class Planned(msgspec.Struct, tag=True, frozen=True):
    layers: tuple[LayerPlan, ...]
    done: int
    total: int


class Advanced(msgspec.Struct, tag=True, frozen=True):
    """A layer made progress. ``downloaded`` and ``converted`` are this layer's own counters, in compressed bytes."""

    layer: Digest
    downloaded: int
    converted: int
    done: int
    total: int


class ImageReady(msgspec.Struct, tag=True, frozen=True):
    """Every layer of the image is in the store."""

    image: str
    done: int
    total: int


BuildEvent = ImageResolved | Planned | Advanced | ImageReady
