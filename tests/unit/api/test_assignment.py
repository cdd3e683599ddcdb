"""Which node gets which cache, as a node asks and as the controller counts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from imagecache.api import selector
from imagecache.api.assignment import (
    Cache,
    Target,
    architectures,
    assigned,
    named_platforms,
    node_selector,
    prefetchable,
)
from imagecache.api.nodes import CacheState, NodeCache, NodeStatus, NodeView, platform_of
from imagecache.api.types import NodeCounts
from imagecache.controller.node_index import FewNodes
from imagecache.errors import InvalidManifest
from imagecache.oci.descriptor import Platform

LABELS = {"pool": "gpu"}
AMD64, ARM64, ARM = (Platform(os="linux", architecture=each) for each in ("amd64", "arm64", "arm"))
WINDOWS = Platform(os="windows", architecture="amd64")
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
            desired = FewNodes([NodeView("one", labels, NodeStatus())]).counts("a", "imc-1", Target(chosen)).desired
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

    everywhere = FewNodes(nodes).counts("a", "imc-1", Target(selector.EVERYTHING))
    assert everywhere == NodeCounts(desired=7, ready=2, failed=1)
    assert FewNodes(nodes).counts("a", "imc-1", Target(selector.parse("pool=cpu", ""))) == NodeCounts(
        desired=1, ready=1
    )


@pytest.mark.parametrize(
    ("platforms", "node", "expected"),
    [
        ((AMD64,), AMD64, True),
        ((AMD64,), ARM64, False),
        ((AMD64, ARM64), ARM64, True),
        ((AMD64,), WINDOWS, False),
        # an arm64 machine runs both, and two images of one name would be one too many
        ((ARM,), ARM64, False),
        ((ARM,), Platform(os="linux", architecture="arm", variant="v7"), True),
        ((), ARM64, True),
        ((AMD64,), None, True),
    ],
)
def test_a_node_takes_caches_of_its_own_platform(
    platforms: tuple[Platform, ...], node: Platform | None, *, expected: bool
) -> None:
    cache = replace(READY, platforms=platforms)
    assert bool(assigned([cache], LABELS, (), node)) is expected
    assert bool(assigned([cache], LABELS, ("imc-1",), node)) is expected, "also what it has already"
    assert bool(prefetchable([replace(BUILDING, named=platforms)], LABELS, node)) is expected
    views = [NodeView("one", LABELS, NodeStatus(), node)]
    assert FewNodes(views).counts("a", "imc-1", Target(selector.EVERYTHING, platforms)).desired == int(expected)


def test_a_build_that_names_no_platform_is_prefetched_by_all() -> None:
    assert prefetchable([replace(BUILDING, platforms=(AMD64,))], LABELS, ARM64)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("amd64", (AMD64,)),
        ("ARM64", (ARM64,)),
        ("arm64, amd64", (AMD64, ARM64)),
        ("amd64,\u00a0arm64,amd64,", (AMD64, ARM64)),
    ],
)
def test_the_platforms_that_a_document_names(text: str, found: tuple[Platform, ...]) -> None:
    assert named_platforms({"k8s.aliyun.com/imc-cpu-arch": text}) == found


def test_a_platform_that_no_document_may_name() -> None:
    with pytest.raises(InvalidManifest, match="'sparc' is not supported") as caught:
        named_platforms({"k8s.aliyun.com/imc-cpu-arch": "amd64,sparc"})
    assert caught.value.hint == "one of: amd64, arm64"


def test_the_architectures_of_the_nodes() -> None:
    nodes = [
        ({"pool": "gpu"}, AMD64),
        ({"pool": "cpu"}, ARM64),
        ({"pool": "cpu"}, AMD64),
        ({"pool": "arm"}, ARM64),
        ({"pool": "win"}, WINDOWS),
        ({"pool": "new"}, None),
    ]

    assert architectures(selector.EVERYTHING, nodes) == ["amd64", "arm64"]
    assert architectures(GPU, nodes) == ["amd64"]
    assert architectures(CPU, nodes) == ["amd64", "arm64"]
    assert architectures(selector.parse("pool=arm", ""), nodes) == ["arm64"]
    for nobody in ("pool=win", "pool=new", "pool=none"):
        assert architectures(selector.parse(nobody, ""), nodes) == ["amd64", "arm64"], "until there are some"
    assert architectures(selector.parse("pool=none", ""), nodes, {"arm64"}) == ["arm64"], "as it was built"
    assert architectures(GPU, nodes, {"arm64"}) == ["amd64"]
    assert architectures(None, nodes) == ["amd64", "arm64"]
    assert architectures(selector.EVERYTHING, nodes[4:], {"arm64"}) == []


@pytest.mark.parametrize(
    ("info", "labels", "found"),
    [
        ({"operatingSystem": "linux", "architecture": "arm64"}, {}, ARM64),
        ({"operatingSystem": "linux", "architecture": "arm64"}, {"kubernetes.io/arch": "amd64"}, ARM64),
        (
            {"operatingSystem": "", "architecture": ""},
            {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
            AMD64,
        ),
        (None, {"kubernetes.io/os": "windows", "kubernetes.io/arch": "amd64"}, WINDOWS),
        (None, {"kubernetes.io/arch": "amd64"}, None),
        ({"operatingSystem": 3, "architecture": []}, {}, None),
        ("nonsense", {}, None),
        (None, {}, None),
    ],
)
def test_the_platform_of_a_node(info: object, labels: dict[str, str], found: Platform | None) -> None:
    assert platform_of(info, labels) == found
