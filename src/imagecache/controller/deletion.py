"""What goes with an ImageCache that is being deleted. Pure; it must not wait for anything."""

from __future__ import annotations

from imagecache.api import nodes
from imagecache.api.types import ImageCache
from imagecache.controller.decision import Decision, DeleteBundle, ObservedState, RemoveFinalizer, StopBuild


def decide(cache: ImageCache, observed: ObservedState) -> Decision:
    """Nothing here waits for a node, an agent or the store, so nothing can keep an object from being deleted."""
    if nodes.FINALIZER not in cache.metadata.finalizers:
        return Decision(cache.status, (StopBuild(),))
    names = list(observed.bundles)
    if cache.status is not None:  # when the store cannot be read, they are deleted once it can
        names += [cache.status.image_cache_id]
        names += [cache.status.attempt.image_cache_id] if cache.status.attempt else []
    bundles = (DeleteBundle(name) for name in dict.fromkeys(names))
    return Decision(cache.status, (StopBuild(), *bundles, RemoveFinalizer()))
