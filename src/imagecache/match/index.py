"""The caches of a cluster, prepared once for many pods: by name, by id, and by the repositories of their images.

What a cache has is what its bundle was built of (``status.images``): during an update the spec says something else, and
the old content serves. Images are compared after Docker's normalisation, by tag or by digest, as kubelet and the
runtime look for them: a tag is never a digest, and one beside a digest does not count. Pure; it must not know what a
pod asks for.

1,000 caches of five images each take some 6 ms, and 30 ms the first time, when every name is parsed. A pod takes 30 µs,
and 3 ms if each of them has something of it.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from imagecache.api import ids, times
from imagecache.api.nodes import CacheState, NodeView
from imagecache.api.phases import condition
from imagecache.api.types import ImageCache, Phase, Status
from imagecache.errors import InvalidReference
from imagecache.match.views import CacheView
from imagecache.oci.platform import parse_platform
from imagecache.oci.reference import TEXT_LENGTH, Reference

Usable = Mapping[tuple[str, str], frozenset[str]]
"""By name of a cache and id of its bundle: the nodes that report it Ready."""
_NOWHERE: Usable = MappingProxyType({})
_COMING = frozenset({Phase.PENDING, Phase.CREATING, Phase.UPDATING})
"""Phases in which what the spec names is on its way."""
_LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class _Names:
    """Names of caches by image, each once, in the order in which they are added."""

    def __init__(self) -> None:
        self._exact: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        """By repository, and tag or digest."""
        self._related: defaultdict[str, list[str]] = defaultdict(list)
        """By repository."""

    def add(self, cache: CacheView, images: Iterable[str]) -> None:
        """All of one cache at once."""
        for image in images:
            reference = parsed(image)
            if reference is None:  # no pod can have it either
                continue
            known: set[str] = set(cache.digests.get(image, ()))
            # the runtime drops the tag beside a digest (Reference.cri_name)
            known.add(reference.tag if reference.digest is None else reference.digest)
            _append(self._related[reference.repository], cache.name)
            for each in known:
                _append(self._exact[reference.repository, each], cache.name)

    def exact(self, image: str) -> Sequence[str]:
        wanted = parsed(image)
        return self._exact.get((wanted.repository, wanted.digest or wanted.tag), ()) if wanted is not None else ()

    def related(self, image: str) -> Sequence[str]:
        wanted = parsed(image)
        return self._related.get(wanted.repository, ()) if wanted is not None else ()


def _append(names: list[str], name: str) -> None:
    if not names or names[-1] != name:
        names.append(name)


class Index:
    """For any number of pods; made anew after a change of a cache or of a node's report."""

    def __init__(self, caches: Iterable[CacheView]) -> None:
        ordered = sorted(caches, key=lambda cache: (cache.name, cache.uid))
        self.caches: Mapping[str, CacheView] = {cache.name: cache for cache in ordered}
        """By name, in its order, whatever their state."""
        found = [cache for cache in self.caches.values() if not cache.deleted]
        self._by_id = {cache.id: cache for cache in found if cache.id}
        self._by_owner = {ids.owner(cache.uid): cache for cache in found if cache.uid}
        self._has, self._coming = _Names(), _Names()
        for cache in self.caches.values():
            has = tuple(cache.digests) if cache.serves and cache.digests else cache.images
            self._has.add(cache, has)
            if cache.phase in _COMING and not cache.deleted:
                served = frozenset(has) if cache.serves else frozenset()
                self._coming.add(cache, (image for image in cache.images if image not in served))

    def pinned(self, text: str) -> CacheView | None:
        """The cache that a pin means: by its id, by an id of another bundle of it, by its name. None: there is none.

        In this order, because a cache may be *named* like an id.
        """
        found = self._by_id.get(text)
        if found is None and ids.is_cache_id(text):
            found = self._by_owner.get(ids.owner_of(text))
        if found is None:
            found = self.caches.get(text)
        return found if found is not None and not found.deleted else None

    def exact(self, image: str) -> Sequence[str]:
        """Names of the caches that have exactly this image, or would if they served."""
        return self._has.exact(image)

    def related(self, image: str) -> Sequence[str]:
        """Names of the caches that have an image of this repository, or would: these, and those in ``exact``."""
        return self._has.related(image)

    def coming(self, image: str) -> Sequence[str]:
        """Names of the caches that are being built with exactly this image."""
        return self._coming.exact(image)


def usable(nodes: Iterable[NodeView]) -> Usable:
    """Which nodes can use which bundle, by the nodes' reports."""
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for node in nodes:
        for each in node.status.caches:
            if each.state is CacheState.READY:
                found[each.name, each.id].add(node.name)
    return {key: frozenset(names) for key, names in found.items()}


def view(item: ImageCache, nodes: Usable = _NOWHERE) -> CacheView:
    """What matters of a document; its status is its own (``parse.stored``). ``nodes`` is from ``usable``."""
    metadata, status = item.metadata, item.status
    return CacheView(
        name=item.name,
        uid=metadata.uid,
        id=status.image_cache_id if status else "",
        phase=status.phase if status else Phase.PENDING,
        images=item.spec.images,
        created=times.read(metadata.creation_timestamp) or _LONG_AGO,
        size=status.size if status else 0,
        digests=_digests(status),
        architectures=_architectures(status),
        deleted=bool(metadata.deletion_timestamp),
        reason=status.reason if status else "",
        nodes=nodes.get((item.name, status.image_cache_id), frozenset()) if status else frozenset(),
        desired=status.nodes.desired if status and status.nodes else 0,
        ready=status.nodes.ready if status and status.nodes else 0,
        ready_since=_ready_since(status),
        failed_since=_failed_since(status),
    )


def _failed_since(status: Status | None) -> dt.datetime | None:
    if status is None or status.phase is not Phase.FAILED:
        return None
    found = condition(status, "Building")
    return times.read(found.last_transition_time) if found else None


def parsed(image: str) -> Reference | None:
    """The image's reference; None when it is none."""
    return _parsed(image) if len(image) <= TEXT_LENGTH else None


@functools.lru_cache(maxsize=16384)  # of at most 1 KiB each: those of caches are asked for again after every change
def _parsed(image: str) -> Reference | None:
    try:
        return Reference.parse(image)
    except InvalidReference:
        return None


def _digests(status: Status | None) -> dict[str, frozenset[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for image in status.images if status else ():
        found[image.image].add(image.digest)
    return {image: frozenset(digests) for image, digests in found.items()}


def _architectures(status: Status | None) -> frozenset[str]:
    platforms = (parse_platform(image.platform) for image in (status.images if status else ()))
    return frozenset(platform.architecture for platform in platforms if platform is not None)


def _ready_since(status: Status | None) -> dt.datetime | None:
    found = condition(status, "Ready") if status else None
    return times.read(found.last_transition_time) if found and found.status == "True" else None
