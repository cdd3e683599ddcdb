"""The events of a running build.

A build emits ``Planned`` once, then any number of ``Advanced`` and per-image events, and ends by returning the bundle
or raising. ``done`` only grows and reaches exactly ``total``. Both count bytes of the compressed layers: each unique
layer twice, once when downloaded and once when converted; a layer that the store already has is done in the first
event. It must not do I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagecache.digest import Digest


@dataclass(frozen=True, slots=True)
class LayerPlan:
    digest: Digest
    """Of the compressed blob."""
    size: int
    """Compressed bytes."""
    cached: bool
    images: tuple[str, ...]
    """References, as written, of the images that have this layer."""


@dataclass(frozen=True, slots=True)
class ImageResolved:
    image: str
    digest: Digest
    layers: int
    size: int
    """Compressed bytes of all its layers."""


@dataclass(frozen=True, slots=True)
class Planned:
    layers: tuple[LayerPlan, ...]
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Advanced:
    """A layer made progress. ``downloaded`` and ``converted`` are this layer's own counters, in compressed bytes."""

    layer: Digest
    downloaded: int
    converted: int
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ImageReady:
    """Every layer of the image is in the store."""

    image: str
    done: int
    total: int


BuildEvent = ImageResolved | Planned | Advanced | ImageReady
