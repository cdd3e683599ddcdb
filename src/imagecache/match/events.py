"""The events on pods about their caches, with ECI's reasons and texts (eci-api §3.4). Pure."""

from __future__ import annotations

from typing import Final

from imagecache.match.views import Told

HIT: Final = "SuccessfulHitImageCache"
MISSED: Final = "ImageCacheMissed"
NOT_FOUND: Final = "ImageCacheNotFound"
NOT_COMPLETE: Final = "ImageCacheNotComplete"
AUTO_CREATED: Final = "ImageCacheAutoCreated"
AUTO_CREATE_FAILED: Final = "ImageCacheAutoCreateFailed"
"""The name is ours: ECI's is not published."""
FAILED: Final = "ImageCacheFailed"
"""Ours: the build of the pinned cache has failed, and why."""
RELEASED: Final = "ImageCacheReleased"
"""Ours: all held pods are let go, as before an uninstallation."""
SERVED: Final = "ImageCacheServed"
"""Ours, by the agent of the pod's node: layers from caches, bytes pulled, time."""
_PREFIX = "[eci.imagecache]"
_PIN = 253
"""Characters of a pin that are repeated; no name and no id is longer."""
_CAUSE = 500
"""Characters of a failure's reason that are repeated."""


def hit(cache_id: str) -> Told:
    text = f"Successfully hit image cache {cache_id}, eci will be scheduled with this image cache."
    return Told(HIT, "Normal", _PREFIX + text)


def missed() -> Told:
    return Told(MISSED, "Warning", f"{_PREFIX}Missed image cache.")


def not_found(pin: str) -> Told:
    return Told(NOT_FOUND, "Warning", f"{_PREFIX}The specified image cache {_shown(pin)} does not exist.")


def not_complete(pin: str) -> Told:
    text = f"The production for specified image cache {_shown(pin)} is not yet complete."
    return Told(NOT_COMPLETE, "Normal", _PREFIX + text)


def auto_created(cache_id: str) -> Told:
    """Its build has begun."""
    return Told(AUTO_CREATED, "Normal", f"{_PREFIX}Image cache {cache_id} is auto created")


def auto_create_failed(cause: str) -> Told:
    return Told(AUTO_CREATE_FAILED, "Warning", f"{_PREFIX}Image cache auto create failed for {cause[:_CAUSE]}")


def failed(pin: str, cause: str) -> Told:
    """``cause``: ``status.reason`` of the cache."""
    text = f"The production for specified image cache {_shown(pin)} has failed: {cause[:_CAUSE]}"
    return Told(FAILED, "Warning", _PREFIX + text)


def released() -> Told:
    text = (
        "It waits for no image cache any longer, for imagecache is being uninstalled or switched off: "
        "its node pulls the images that it does not have."
    )
    return Told(RELEASED, "Warning", _PREFIX + text)


def _shown(pin: str) -> str:
    """Any text as one short line of ASCII, which names and ids are already."""
    return pin[:_PIN].encode("unicode_escape").decode("ascii")
