"""Read an ImageCache object of the API server into the ``Cache`` that a node works with. Pure.

Objects may be older or newer than this program: a field that cannot be read counts as absent, and is never an error.
"""

from __future__ import annotations

from collections.abc import Mapping

from imagecache.api import assignment, times
from imagecache.api.assignment import Cache
from imagecache.api.ids import is_of
from imagecache.api.nodes import also_unpack, direct_io, priority
from imagecache.api.selector import Selector
from imagecache.api.types import Phase
from imagecache.api.yamltext import JSON
from imagecache.digest import Digest
from imagecache.errors import InvalidDigest, InvalidManifest
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.oci.descriptor import Platform
from imagecache.oci.platform import parse_platform
from imagecache.store.expected_bundle import ExpectedBundle, ExpectedImage

_SERVING = frozenset(phase.value for phase in assignment.SERVING)
_BUILDING = frozenset({Phase.CREATING.value, Phase.UPDATING.value})


def cache_of(item: Object) -> Cache:
    annotations = objects.texts(item, "metadata", "annotations")
    bundle_id = _own(item, "status", "imageCacheId")
    expected = _expected(item, bundle_id) if bundle_id else None
    phase = objects.text(item, "status", "phase")
    # what a build makes has an id of its own only while another bundle serves
    building = _own(item, "status", "attempt", "imageCacheId") if phase in _BUILDING else ""
    return Cache(
        name=objects.name(item),
        id=bundle_id,
        ready=expected is not None and phase in _SERVING,
        building="" if phase in _SERVING and building == bundle_id else building,
        selector=_selector(annotations),
        priority=priority(annotations),
        created=times.seconds(objects.text(item, "metadata", "creationTimestamp")),
        expected=expected,
        platforms=_platforms(item),
        named=_named(annotations),
        deleting=bool(objects.text(item, "metadata", "deletionTimestamp")),
        also_unpack=also_unpack(annotations),
        direct_io=direct_io(annotations),
    )


def _own(item: Object, *path: str) -> str:
    """The id of a bundle of this very object: one that a status has from elsewhere is another cache's."""
    found = objects.text(item, *path)
    return found if is_of(objects.uid(item), found) else ""


def _selector(keys: Mapping[str, str]) -> Selector | None:
    try:
        return assignment.node_selector(keys)
    except InvalidManifest:  # the controller reports it on the ImageCache
        return None


def _expected(item: Object, bundle_id: str) -> ExpectedBundle | None:
    """None: no document can be told from another one, so that there is nothing to fetch yet."""
    try:
        digest = Digest(objects.text(item, "status", "bundleDigest"))
    except InvalidDigest:
        return None
    return ExpectedBundle(bundle_id, digest, frozenset(map(_image, _images(item))))


def _image(image: JSON) -> ExpectedImage:
    return ExpectedImage(
        reference=objects.text(image, "image"),
        platform=objects.text(image, "platform"),
        digest=objects.text(image, "digest"),
        private=objects.at(image, "private") is True,
    )


def _images(item: Object) -> list[JSON]:
    images = objects.at(item, "status", "images")
    return images if isinstance(images, list) else []


def _platforms(item: Object) -> tuple[Platform, ...]:
    found = (parse_platform(objects.text(image, "platform")) for image in _images(item))
    return tuple(dict.fromkeys(filter(None, found)))


def _named(keys: Mapping[str, str]) -> tuple[Platform, ...]:
    try:
        return assignment.named_platforms(keys)
    except InvalidManifest:  # the controller reports it on the ImageCache
        return ()
