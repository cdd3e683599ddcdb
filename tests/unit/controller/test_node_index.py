"""What nodes report, kept report by report, is what counting anew gives; and a report says whom it concerns."""

from __future__ import annotations

import random

import pytest

from imagecache.api import selector
from imagecache.api.assignment import Target
from imagecache.api.nodes import CacheState, NodeCache, NodeStatus, NodeView
from imagecache.api.types import NodeCounts
from imagecache.controller.node_index import FewNodes, NodeIndex
from imagecache.oci.descriptor import Platform

AMD64, ARM64 = Platform(os="linux", architecture="amd64"), Platform(os="linux", architecture="arm64")
CACHES = [("a", "imc-1"), ("a", "imc-2"), ("b", "imc-3"), ("c", "imc-4")]
TARGETS = [
    Target(selector.EVERYTHING),
    Target(selector.parse("pool=gpu", "")),
    Target(selector.parse("!pool", "")),
    Target(selector.EVERYTHING, (ARM64,)),
]


def view(name: str, *caches: NodeCache, platform: Platform | None = AMD64, **labels: str) -> NodeView:
    return NodeView(name, labels, NodeStatus(caches=caches), platform)


def entry(name: str, bundle_id: str, state: CacheState, *, done: int = 0) -> NodeCache:
    return NodeCache(name=name, id=bundle_id, state=state, bytes_done=done)


def drawn(source: random.Random, name: str) -> NodeView | None:
    if source.random() < 0.2:
        return None
    caches = [
        entry(*key, source.choice(list(CacheState)), done=source.randrange(3))
        for key in CACHES
        if source.random() < 0.6
    ]
    labels = source.choice([{}, {"pool": "gpu"}, {"pool": "cpu"}])
    return view(name, *caches, platform=source.choice([AMD64, ARM64, None]), **labels)


def test_names_that_another_cache_owns() -> None:
    index, everywhere = NodeIndex(), TARGETS[0]
    lost = NodeCache(name="a", id="imc-1", state=CacheState.READY, reason="NameTaken", message="app:1 is of b")
    assert index.taken("a", "imc-1", everywhere) == ""
    index.put("node-2", view("node-2", lost))
    assert index.taken("a", "imc-1", everywhere) == "app:1 is of b (on node-2)"
    index.put("node-1", view("node-1", lost))
    assert index.taken("a", "imc-1", everywhere) == "app:1 is of b (on node-1, and on 1 other node)"
    assert index.taken("a", "imc-1", TARGETS[1]) == index.taken("a", "imc-2", everywhere) == ""

    assert index.put("node-1", view("node-1", entry("a", "imc-1", CacheState.READY))) == frozenset({"a"})
    assert index.counts("a", "imc-1", everywhere).ready == 2
    index.put("node-2", None)
    assert index.taken("a", "imc-1", everywhere) == ""


@pytest.mark.parametrize("seed", range(8))
def test_it_counts_as_if_it_counted_anew(seed: int) -> None:
    source, index = random.Random(seed), NodeIndex()
    nodes: dict[str, NodeView] = {}
    for _ in range(300):
        name = f"node-{source.randrange(12)}"
        after = drawn(source, name)
        before = {key: index.usable(*key) for key in CACHES}
        concerned = index.put(name, after)
        if after is None:
            nodes.pop(name, None)
        else:
            nodes[name] = after
        anew = FewNodes(nodes.values())
        for key in CACHES:
            for target in TARGETS:
                assert index.counts(*key, target) == anew.counts(*key, target)
            assert concerned is None or key[0] in concerned or index.usable(*key) == before[key]
    assert {each.name for each in index.views} == nodes.keys()


def test_whom_a_report_concerns() -> None:
    index = NodeIndex()
    assert index.put("one", view("one", entry("a", "imc-1", CacheState.FETCHING))) is None, "a new node"
    assert index.put("one", view("one", entry("a", "imc-1", CacheState.FETCHING, done=7))) == frozenset()
    assert index.put("one", view("one", entry("a", "imc-1", CacheState.READY))) == frozenset({"a"})
    assert index.put("one", view("one", entry("a", "imc-1", CacheState.READY), pool="gpu")) is None, "relabelled"
    assert index.put("one", view("one", pool="gpu")) == frozenset({"a"})
    assert index.put("two", None) == frozenset(), "it was not there"
    assert index.put("one", None) is None, "gone"


def test_of_two_entries_about_the_same_the_first_counts() -> None:
    twice = view("one", entry("a", "imc-1", CacheState.FAILED), entry("a", "imc-1", CacheState.READY))
    assert FewNodes([twice]).counts("a", "imc-1", TARGETS[0]) == NodeCounts(desired=1, failed=1)


def test_many_different_targets() -> None:
    index = NodeIndex()
    index.put("one", view("one", pool="7"))
    found = [index.counts("a", "imc-1", Target(selector.parse(f"pool={n}", ""))).desired for n in range(2500)]
    assert [number for number, desired in enumerate(found) if desired] == [7]
