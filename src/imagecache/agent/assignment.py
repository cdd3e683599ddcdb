"""An ImageCache object as the API server has it, as far as a node cares. Pure.

Objects may be older or newer than this program: what cannot be read counts as not there, and is never an error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from imagecache.agent.dependencies import Cache
from imagecache.api import selector, times
from imagecache.api.ids import derived_cache_id, is_cache_id
from imagecache.api.nodes import NODE_SELECTOR, PRIORITY
from imagecache.api.types import Phase
from imagecache.digest import Digest
from imagecache.errors import InvalidDigest, InvalidManifest
from imagecache.kube import objects
from imagecache.kube.api import Object

_SERVING = frozenset({Phase.READY.value, Phase.UPDATING.value, Phase.UPDATE_FAILED.value})
_WHOLE_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,9}\s*")


def cache_of(item: Object) -> Cache:
    annotations = objects.texts(item, "metadata", "annotations")
    found = objects.text(item, "status", "imageCacheId")
    bundle_id = found if is_cache_id(found) else ""
    phase = objects.text(item, "status", "phase")
    return Cache(
        name=objects.name(item),
        id=bundle_id,
        ready=bool(bundle_id) and phase in _SERVING,
        building=_building(item, phase, bundle_id),
        selector=annotations.get(NODE_SELECTOR, ""),
        priority=_priority(annotations.get(PRIORITY, "")),
        created=_seconds(objects.text(item, "metadata", "creationTimestamp")),
        digests=_digests(item),
        deleting=bool(objects.text(item, "metadata", "deletionTimestamp")),
    )


def followed(caches: Collection[Cache], labels: Mapping[str, str]) -> dict[str, Cache]:
    """The caches that will belong on a node with these labels, by id of the bundle that is being built for them."""
    return {
        cache.building: cache
        for cache in caches
        if cache.building and not cache.deleting and _matches(cache, labels, otherwise=False)
    }


def selected(caches: Collection[Cache], labels: Mapping[str, str], resident: Collection[str]) -> dict[str, Cache]:
    """The caches that belong on a node with these labels, by id of their bundle.

    A bundle in ``resident`` stays as long as its cache is there, also while that is built anew, or while somebody
    mistyped its selector.
    """
    return {
        cache.id: cache
        for cache in caches
        if cache.id
        and not cache.deleting
        and (cache.ready or cache.id in resident)
        and _matches(cache, labels, otherwise=cache.id in resident)
    }


def _matches(cache: Cache, labels: Mapping[str, str], *, otherwise: bool) -> bool:
    try:
        return selector.parse(cache.selector, NODE_SELECTOR).matches(labels)
    except InvalidManifest:  # the controller tells the user
        return otherwise


def _building(item: Object, phase: str, bundle_id: str) -> str:
    """A first build has the id in the status, a later one gets that of its generation."""
    generation = objects.at(item, "metadata", "generation")
    if phase == Phase.CREATING.value:
        return bundle_id
    if phase == Phase.UPDATING.value and isinstance(generation, int):
        return derived_cache_id(objects.uid(item), generation)
    return ""


def _priority(text: str) -> int:
    return int(text) if _WHOLE_NUMBER.fullmatch(text) else 0


def _seconds(text: str) -> float:
    try:
        return times.parse(text).timestamp()
    except ValueError:
        return 0.0


def _digests(item: Object) -> dict[str, Digest]:
    images = objects.at(item, "status", "images")
    found = {}
    for image in images if isinstance(images, list) else []:
        reference, digest = objects.text(image, "image"), objects.text(image, "digest")
        try:
            found[reference] = Digest(digest)
        except InvalidDigest:
            continue
    return found
