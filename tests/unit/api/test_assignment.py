"""Which node gets which cache, as a node asks and as the controller counts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from imagecache.api import selector
from imagecache.api.assignment import Cache, assigned, counts, node_selector, prefetchable
from imagecache.api.nodes import CacheState, NodeCache, NodeStatus, NodeView
from imagecache.api.types import NodeCounts
from imagecache.errors import InvalidManifest

LABELS = {"pool": "gpu"}
GPU, CPU = (selector.parse(f"pool={pool}", "") for pool in ("gpu", "cpu"))
READY = Cache("a", "imc-1", ready=True)
REBUILT = replace(READY, ready=False)
"""Its bundle cannot be fetched at the moment."""
BUILDING = Cache("a", "imc-1", ready=False, building="imc-1")
UPDATING = Cache("a", "imc-1", ready=True, building="imc-2")


@pytest.mark.parametrize(
    ("cache", "resident", "expected"),
    [
        (READY, (), True),
        (replace(READY, selector=GPU), (), True),
        (replace(READY, selector=CPU), (), False),
        (replace(READY, selector=CPU), ("imc-1",), False),
        (replace(READY, selector=None), (), False),
        (replace(READY, selector=None), ("imc-1",), True),
        (REBUILT, (), False),
        (REBUILT, ("imc-1",), True),
        (replace(READY, deleting=True), ("imc-1",), False),
        (replace(READY, id="", ready=False), (), False),
        (UPDATING, (), True),
    ],
)
def test_what_a_node_holds(cache: Cache, resident: Collection[str], *, expected: bool) -> None:
    assert assigned([cache], LABELS, resident) == ({cache.id: cache} if expected else {})


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (BUILDING, "imc-1"),
        (UPDATING, "imc-2"),
        (READY, ""),
        (replace(BUILDING, selector=GPU), "imc-1"),
        (replace(BUILDING, selector=CPU), ""),
        (replace(BUILDING, selector=None), ""),
        (replace(BUILDING, deleting=True), ""),
    ],
)
def test_what_a_node_prefetches(cache: Cache, expected: str) -> None:
    assert prefetchable([cache], LABELS) == ({expected: cache} if expected else {})


def test_the_selector_among_the_annotations() -> None:
    assert node_selector({}) == selector.EVERYTHING
    assert node_selector({"imagecache.dev/node-selector": "pool=gpu"}) == GPU
    with pytest.raises(InvalidManifest, match=r"^metadata\.annotations\[imagecache\.dev/node-selector\]: "):
        node_selector({"imagecache.dev/node-selector": "pool=("})


def test_a_node_that_holds_a_cache_is_a_node_that_is_counted() -> None:
    """The two sides never disagree: what is counted as desired is what the node's agent goes for."""
    for chosen in (selector.EVERYTHING, GPU, CPU, selector.parse("!pool", "")):
        for labels in (LABELS, {"pool": "cpu"}, {}):
            desired = counts("a", "imc-1", chosen, [NodeView("one", labels, NodeStatus())]).desired
            assert desired == len(assigned([replace(READY, selector=chosen)], labels, ()))


def node(name: str, *caches: NodeCache, **labels: str) -> NodeView:
    return NodeView(name, labels, NodeStatus(caches=caches))


def test_nodes_are_counted_by_what_they_report_of_this_bundle() -> None:
    ready = NodeCache(name="a", id="imc-1", state=CacheState.READY)
    nodes = [
        node("one", ready),
        node("two", NodeCache(name="a", id="imc-1", state=CacheState.FAILED)),
        node("three", NodeCache(name="a", id="imc-1", state=CacheState.FETCHING)),
        node("old", NodeCache(name="a", id="imc-0", state=CacheState.READY)),
        node("other", NodeCache(name="b", id="imc-2", state=CacheState.READY)),
        node("new"),
        node("elsewhere", ready, pool="cpu"),
    ]

    everywhere = counts("a", "imc-1", selector.EVERYTHING, nodes)
    assert everywhere == NodeCounts(desired=7, ready=2, failed=1)
    assert counts("a", "imc-1", selector.parse("pool=cpu", ""), nodes) == NodeCounts(desired=1, ready=1)
