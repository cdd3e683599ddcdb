"""Which node gets which ImageCache: one rule, for the controller that counts nodes and for each node's agent.

A cache is assigned to a node when its selector matches the labels of the Node. The controller counts
such nodes, if they have an agent. An agent holds the bundle once it can be fetched, and prefetches one that is being
built. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from imagecache.api import annotations as known
from imagecache.api import selector
from imagecache.api.nodes import NODE_SELECTOR, CacheState, NodeView
from imagecache.api.selector import Selector
from imagecache.api.types import NodeCounts, Phase
from imagecache.digest import Digest

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
    digests: Mapping[str, Digest] = field(default_factory=dict)
    """Index or manifest of each reference (as written), according to the API server."""
    deleting: bool = False
    also_unpack: tuple[str, ...] = ()
    """``auto``, ``off`` or names of snapshotters that get its images too; empty: the node's setting."""
    direct_io: bool = False
    """Containers can read its layers with O_DIRECT."""


def node_selector(keys: Mapping[str, str]) -> Selector:
    """The selector for nodes among an ImageCache's annotations. Raises InvalidManifest."""
    return selector.parse(known.value(keys, NODE_SELECTOR), known.field(NODE_SELECTOR))


def assigned(caches: Collection[Cache], labels: Mapping[str, str], resident: Collection[str]) -> dict[str, Cache]:
    """The caches that a node with these labels holds, by id of their bundle.

    A bundle in ``resident`` stays assigned while its cache exists: also when the cache is built again, and when its
    selector cannot be parsed, because a typing mistake must not evict anything.
    """
    return {
        cache.id: cache
        for cache in caches
        if cache.id
        and not cache.deleting
        and (cache.ready or cache.id in resident)
        and (cache.id in resident if cache.selector is None else cache.selector.matches(labels))
    }


def prefetchable(caches: Collection[Cache], labels: Mapping[str, str]) -> dict[str, Cache]:
    """The caches that a node with these labels will hold, by id of the bundle that is being built for them."""
    return {
        cache.building: cache
        for cache in caches
        if cache.building and not cache.deleting and cache.selector is not None and cache.selector.matches(labels)
    }


def counts(cache: str, bundle_id: str, nodes_of: Selector, nodes: Iterable[NodeView]) -> NodeCounts:
    """Of the nodes that have an agent: how many the cache is assigned to, is usable on, and failed on."""
    desired = ready = failed = 0
    for node in nodes:
        if node.labels is not None and not nodes_of.matches(node.labels):
            continue
        desired += 1
        # a report about an earlier bundle of the same cache says nothing about this one
        state = next((each.state for each in node.status.caches if (each.name, each.id) == (cache, bundle_id)), None)
        ready += state is CacheState.READY
        failed += state is CacheState.FAILED
    return NodeCounts(desired=desired, ready=ready, failed=failed)
