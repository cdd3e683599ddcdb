"""What a build tells while it runs.

A build emits ``Planned`` once, any number of ``Advanced`` and per-image events in between, and ends by returning the
bundle or raising. ``done`` only grows and reaches exactly ``total``. Both are bytes of the compressed layers: each
unique layer counts twice, once when downloaded and once when converted; a layer that the store has already counts as
done in the first event. It must not do I/O.
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
    """References (as written) that have this layer."""


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
    """Some bytes more. ``downloaded`` and ``converted`` are this layer's own counters, in compressed bytes."""

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
