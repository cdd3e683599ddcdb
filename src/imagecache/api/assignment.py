"""Which node gets which ImageCache: one rule, for the controller that counts nodes and for each node's agent.

A cache is assigned to a node when its selector matches the labels of the Node, and when it has an image for the node's
os and architecture (``docs/adr/0022-platforms.md``). The controller counts such nodes, if they have an agent. An agent
holds the bundle once it can be fetched, and prefetches one that is being built. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from imagecache.api import annotations as known
from imagecache.api import selector
from imagecache.api.nodes import NODE_SELECTOR
from imagecache.api.selector import Selector
from imagecache.api.types import NodeCounts, Phase
from imagecache.oci.descriptor import Platform
from imagecache.oci.platform import same_machine
from imagecache.store.expected_bundle import ExpectedBundle

ARCHITECTURES = ("amd64", "arm64")
"""That a document may name (ECI's ``imc-cpu-arch``)."""
SERVING = frozenset({Phase.READY, Phase.UPDATING, Phase.UPDATE_FAILED})
"""Phases in which the store has the bundle that ``status.imageCacheId`` names: the old one serves during an update."""


@dataclass(frozen=True, slots=True)
class Cache:
    """One ImageCache, as far as a node needs to know it."""

    name: str
    id: str
    """``status.imageCacheId``; empty before the first one."""
    ready: bool
    """The bundle ``id`` can be fetched (also while a newer one is being built)."""
    building: str = ""
    """Id of a bundle that is being built for it now; empty: none."""
    selector: Selector | None = selector.EVERYTHING
    """None: the annotation is not a label selector, which the controller reports."""
    priority: int = 0
    """More is kept longer when space is short."""
    created: float = 0.0
    """Seconds since the epoch."""
    expected: ExpectedBundle | None = None
    """The bundle ``id`` according to the API server, which is all that is believed of it. None: it does not say."""
    platforms: tuple[Platform, ...] = ()
    """That the bundle ``id`` has images for; empty: not known."""
    named: tuple[Platform, ...] = ()
    """That the document names; empty: those of the nodes."""
    deleting: bool = False
    also_unpack: tuple[str, ...] = ()
    """``auto``, ``off`` or names of snapshotters that get its images too; empty: the node's setting."""
    direct_io: bool = False
    """Containers can read its layers with O_DIRECT."""


@dataclass(frozen=True, slots=True)
class Target:
    """The nodes that a cache is for."""

    selector: Selector
    platforms: tuple[Platform, ...] = ()
    """Empty: any."""


class NodeCounter(Protocol):
    """``controller.node_index``: of the cluster, or of a host."""

    def counts(self, cache: str, bundle_id: str, target: Target) -> NodeCounts:
        """Of the nodes that have an agent: how many the cache is assigned to, is usable on, and failed on."""

    def taken(self, cache: str, bundle_id: str, target: Target) -> str:
        """What nodes say of names of its images that another ImageCache owns there, for people; empty: nothing."""


def node_selector(keys: Mapping[str, str]) -> Selector:
    """The selector for nodes among an ImageCache's annotations. Raises InvalidManifest."""
    return selector.parse(known.value(keys, NODE_SELECTOR), known.field(NODE_SELECTOR))


def named_platforms(keys: Mapping[str, str]) -> tuple[Platform, ...]:
    """The platforms that an ImageCache's annotations name; none: those of the nodes. Raises InvalidManifest."""
    return tuple(Platform(os="linux", architecture=each) for each in known.choices(keys, known.CPU_ARCH, ARCHITECTURES))


def takes(platforms: Collection[Platform], node: Platform | None) -> bool:
    """Whether a node of this platform takes images for one of these. What is not known excludes no node."""
    return node is None or not platforms or any(same_machine(node, each) for each in platforms)


def architectures(
    chosen: Selector | None,
    nodes: Collection[tuple[Mapping[str, str], Platform | None]],
    built: Collection[str] = (),
) -> list[str]:
    """GOARCH of the Linux nodes, labels and platform of each, that a selector matches, sorted.

    While it matches none, those in ``built``: a pool that scales to zero and back builds nothing. Without any, those of
    all nodes. Empty when no node's is known.
    """
    linux = [(labels, each.architecture) for labels, each in nodes if each is not None and each.os == "linux"]
    matching = {each for labels, each in linux if chosen is not None and chosen.matches(labels)}
    return sorted(matching or (set(built) if linux else set()) or {each for _, each in linux})


def assigned(
    caches: Collection[Cache], labels: Mapping[str, str], resident: Collection[str], platform: Platform | None = None
) -> dict[str, Cache]:
    """The caches that a node with these labels, of this platform, holds, by id of their bundle.

    A bundle in ``resident`` stays assigned while its cache exists: also when the cache is built again, and when its
    selector cannot be parsed, because a typing mistake must not evict anything.
    """
    return {
        cache.id: cache
        for cache in caches
        if cache.id
        and not cache.deleting
        and takes(cache.platforms, platform)
        and (cache.ready or cache.id in resident)
        and (cache.id in resident if cache.selector is None else cache.selector.matches(labels))
    }


def prefetchable(
    caches: Collection[Cache], labels: Mapping[str, str], platform: Platform | None = None
) -> dict[str, Cache]:
    """The caches that such a node will hold, by id of the bundle that is being built for them."""
    return {
        cache.building: cache
        for cache in caches
        if cache.building
        and not cache.deleting
        and takes(cache.named, platform)
        and cache.selector is not None
        and cache.selector.matches(labels)
    }
