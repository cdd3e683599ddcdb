"""What a ``create`` tells while it runs, beside the events of the build itself. It must not do I/O."""

from __future__ import annotations

from dataclasses import dataclass

from imagecache.api.types import ImageCache
from imagecache.builder.build_events import BuildEvent
from imagecache.containerd.api import Attached


@dataclass(frozen=True, slots=True)
class Accepted:
    """The object is there; its build begins."""

    cache: ImageCache
    resumed: bool
    """An earlier create was interrupted or failed; id and downloads are kept."""
    notes: tuple[str, ...]
    """What was ignored or changed in the document."""


@dataclass(frozen=True, slots=True)
class Built:
    """The cache is Ready."""

    cache: ImageCache


CreateEvent = Accepted | BuildEvent | Built | Attached
