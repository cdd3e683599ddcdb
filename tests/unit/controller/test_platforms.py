"""For which architectures a cluster's caches are built, on which nodes they count, and names that are written oddly."""

from __future__ import annotations

import asyncio

import pytest

from imagecache.api.nodes import NODE_SELECTOR
from imagecache.api.types import NodeCounts, Phase
from imagecache.api.yamltext import JSON
from imagecache.kube.resources import IMAGE_CACHES, NODE_IMAGE_CACHES, NODES

from .conftest import Bench, eventually, manifest

CPU_ARCH = "k8s.aliyun.com/imc-cpu-arch"


def machine(architecture: str, system: str = "linux", **labels: JSON) -> dict[str, JSON]:
    return {"kubernetes.io/os": system, "kubernetes.io/arch": architecture, **labels}


async def mixed(bench: Bench) -> None:
    """A controller that has seen two nodes of amd64, one of arm64 and one with Windows."""
    bench.start()
    for name, labels in {
        "one": machine("amd64", pool="web"),
        "two": machine("amd64", pool="web"),
        "three": machine("arm64", pool="arm"),
        "four": machine("amd64", "windows", pool="win"),
    }.items():
        await bench.node(name, labels=labels)
    await eventually(lambda: len(bench.controller.informers.nodes.views) == 4, lambda: "nodes")


async def built(bench: Bench, *images: str, **annotations: JSON) -> list[tuple[str, str]]:
    """Images and platforms of the status of a new cache."""
    await bench.create(manifest("a", *images, annotations=annotations))
    status = await bench.phase(Phase.READY)
    return [(image.image, image.platform) for image in status.images]


async def test_a_cache_is_built_for_the_architectures_of_the_nodes(bench: Bench) -> None:
    await mixed(bench)

    assert await built(bench) == [("nginx:1.25", "linux/amd64"), ("nginx:1.25", "linux/arm64")]

    await bench.until(lambda status: status.nodes == NodeCounts(desired=3))
    (request,) = bench.builder.requests
    assert not request.complete


async def test_a_node_without_an_image_for_it_is_not_desired(bench: Bench) -> None:
    bench.builder.lacking = {"arm64": frozenset({"nginx:1.25"})}
    await mixed(bench)

    assert await built(bench) == [("nginx:1.25", "linux/amd64")]

    name = (await bench.until(lambda status: status.nodes == NodeCounts(desired=2))).image_cache_id
    for node in ("one", "two", "three"):
        await bench.report(node, {"name": "a", "id": name, "state": "Ready"})
    await bench.until(lambda status: status.nodes == NodeCounts(desired=2, ready=2))


async def test_one_image_of_two_is_enough(bench: Bench) -> None:
    bench.builder.lacking = {"arm64": frozenset({"nginx:1.25"})}
    await mixed(bench)

    found = await built(bench, "nginx:1.25", "redis:7")

    assert found == [("nginx:1.25", "linux/amd64"), ("redis:7", "linux/amd64"), ("redis:7", "linux/arm64")]
    await bench.until(lambda status: status.nodes == NodeCounts(desired=3))


async def test_a_selector_chooses_architectures_too(bench: Bench) -> None:
    await mixed(bench)

    assert await built(bench, **{NODE_SELECTOR: "pool=arm"}) == [("nginx:1.25", "linux/arm64")]

    await bench.until(lambda status: status.nodes == NodeCounts(desired=1))


async def test_the_annotation_takes_a_list(bench: Bench) -> None:
    await mixed(bench)

    assert await built(bench, **{CPU_ARCH: "arm64, amd64"}) == [
        ("nginx:1.25", "linux/amd64"),
        ("nginx:1.25", "linux/arm64"),
    ]

    assert [request.complete for request in bench.builder.requests] == [True]


async def test_an_architecture_that_no_node_has_is_desired_nowhere(bench: Bench) -> None:
    bench.start()
    await bench.node("one", labels=machine("amd64"))
    await eventually(lambda: bench.controller.informers.nodes.views, lambda: "nodes")

    assert await built(bench, **{CPU_ARCH: "arm64"}) == [("nginx:1.25", "linux/arm64")]

    await bench.until(lambda status: status.nodes == NodeCounts())


async def test_a_node_that_comes_and_goes_builds_nothing_again(bench: Bench) -> None:
    await mixed(bench)
    await built(bench)

    for resource in (NODE_IMAGE_CACHES, NODES):
        await bench.kube.delete(resource, "three")
    await bench.until(lambda status: status.nodes == NodeCounts(desired=2))
    await bench.kube.patch(IMAGE_CACHES, "a", {"spec": {"retentionDays": 7}})
    await bench.until(lambda status: bool(status.expire_date_time))

    assert len(bench.builder.requests) == 1


async def test_a_pool_that_scales_to_zero_and_back_builds_nothing(bench: Bench) -> None:
    """Its selector matches no node meanwhile."""
    await mixed(bench)
    assert await built(bench, **{NODE_SELECTOR: "pool=arm"}) == [("nginx:1.25", "linux/arm64")]

    for resource in (NODE_IMAGE_CACHES, NODES):
        await bench.kube.delete(resource, "three")
    await bench.until(lambda status: status.nodes == NodeCounts())
    await bench.node("three", labels=machine("arm64", pool="arm"))
    await bench.until(lambda status: status.nodes == NodeCounts(desired=1))

    assert len(bench.builder.requests) == 1


async def test_a_node_of_a_new_architecture_is_a_reason_to_build_again(bench: Bench) -> None:
    bench.start()
    await bench.node("one", labels=machine("amd64"))
    await eventually(lambda: bench.controller.informers.nodes.views, lambda: "nodes")
    assert await built(bench) == [("nginx:1.25", "linux/amd64")]

    await bench.node("two", labels=machine("arm64"))

    status = await bench.until(lambda status: len(status.images) == 2 and status.phase is Phase.READY)
    assert [image.platform for image in status.images] == ["linux/amd64", "linux/arm64"]
    assert len(bench.builder.requests) == 2


async def test_an_image_without_the_new_architecture_is_looked_at_once(bench: Bench) -> None:
    bench.builder.lacking = {"arm64": frozenset({"nginx:1.25"})}
    bench.start()
    await bench.node("one", labels=machine("amd64"))
    await eventually(lambda: bench.controller.informers.nodes.views, lambda: "nodes")
    await built(bench)

    await bench.node("two", labels=machine("arm64"))

    await eventually(lambda: len(bench.builder.requests) == 2, lambda: bench.builder.requests)
    await bench.phase(Phase.READY)
    for _ in range(5):
        bench.controller.queue.add("a")
        await asyncio.sleep(0.01)
    assert len(bench.builder.requests) == 2
    assert (await bench.status()).nodes == NodeCounts(desired=1)


@pytest.mark.parametrize("image", ["nginx:1.25 ", "\u00a0nginx:1.25", "nginx:1.25\u200b", "\u3000nginx:1.25\r\n"])
async def test_what_is_around_a_reference_builds_nothing_again(bench: Bench, image: str) -> None:
    bench.start()

    assert await built(bench, image) == [("nginx:1.25", "linux/amd64")]
    await bench.kube.patch(IMAGE_CACHES, "a", {"spec": {"images": [f" {image}"], "retentionDays": 7}})
    await bench.until(lambda status: bool(status.expire_date_time))
    for _ in range(5):
        bench.controller.queue.add("a")
        await asyncio.sleep(0)

    assert (await bench.status()).phase is Phase.READY
    assert len(bench.builder.requests) == 1
    assert (await bench.status()).images[0].image == "nginx:1.25"
