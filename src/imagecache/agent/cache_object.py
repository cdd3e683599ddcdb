"""Read an ImageCache object of the API server into the ``Cache`` that a node works with. Pure.

Objects may be older or newer than this program: a field that cannot be read counts as absent, and is never an error.
"""

from __future__ import annotations

from collections.abc import Mapping

from imagecache.api import assignment, times
from imagecache.api.assignment import Cache
from imagecache.api.ids import derived_cache_id, is_cache_id
from imagecache.api.nodes import also_unpack, direct_io, priority
from imagecache.api.selector import Selector
from imagecache.api.types import Phase
from imagecache.digest import Digest
from imagecache.errors import InvalidDigest, InvalidManifest
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.oci.descriptor import Platform
from imagecache.oci.platform import parse_platform

_SERVING = frozenset(phase.value for phase in assignment.SERVING)


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
        selector=_selector(annotations),
        priority=priority(annotations),
        created=_seconds(objects.text(item, "metadata", "creationTimestamp")),
        digests=_digests(item),
        platforms=_platforms(item),
        named=_named(annotations),
        deleting=bool(objects.text(item, "metadata", "deletionTimestamp")),
        also_unpack=also_unpack(annotations),
        direct_io=direct_io(annotations),
    )


def _selector(keys: Mapping[str, str]) -> Selector | None:
    try:
        return assignment.node_selector(keys)
    except InvalidManifest:  # the controller reports it on the ImageCache
        return None


def _building(item: Object, phase: str, bundle_id: str) -> str:
    """A first build has the id of the status, a later one that of its generation."""
    generation = objects.at(item, "metadata", "generation")
    if phase == Phase.CREATING.value:
        return bundle_id
    if phase == Phase.UPDATING.value and isinstance(generation, int):
        return derived_cache_id(objects.uid(item), generation)
    return ""


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


def _platforms(item: Object) -> tuple[Platform, ...]:
    images = objects.at(item, "status", "images")
    found = (parse_platform(objects.text(image, "platform")) for image in (images if isinstance(images, list) else ()))
    return tuple(dict.fromkeys(filter(None, found)))


def _named(keys: Mapping[str, str]) -> tuple[Platform, ...]:
    try:
        return assignment.named_platforms(keys)
    except InvalidManifest:  # the controller reports it on the ImageCache
        return ()
