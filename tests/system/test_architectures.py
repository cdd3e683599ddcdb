"""Caches of several architectures in a cluster of one: nodes take their own, and what is for others is for no node."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from imagecache.kube.objects import at
from testkit.cluster.installed import Installed
from testkit.cluster.node import Node
from testkit.cluster.pods import PodSpec, run_pods
from testkit.images import busybox_tar, tar_of
from testkit.oci_layout import Image, ImageConfig, LayerSpec, Layout, host_architecture

from .conftest import Site

CPU_ARCH = "k8s.aliyun.com/imc-cpu-arch"
BOTH = ("amd64", "arm64")
HERE = host_architecture()
(ELSEWHERE,) = set(BOTH) - {HERE}
_SIZE = 3_000_000


def for_both(site: Site) -> Image:
    """busybox below a layer of random bytes for each architecture."""
    layout = Layout(Path(tempfile.mkdtemp(dir=site.directory)))
    bottom, noise = LayerSpec(busybox_tar()), random.Random(11)
    images = [
        layout.add_image(
            [bottom, LayerSpec(tar_of({"srv": None, f"srv/{each}": noise.randbytes(_SIZE)}))],
            ImageConfig(architecture=each),
        )
        for each in BOTH
    ]
    return layout.add_index(images, [{"os": "linux", "architecture": each} for each in BOTH])


def layers(node: Node) -> int:
    return sum(file.stat().st_size for file in node.store.rglob("*.erofs"))


def platforms(system: Installed, name: str) -> list[str]:
    images = at(system.get(name), "status", "images")
    assert isinstance(images, list)
    return [str(at(image, "platform")) for image in images]


def test_each_node_fetches_its_own_of_two_architectures(site: Site, system: Installed) -> None:
    image = site.registry.push("architectures/both:1", for_both(site))
    system.create("both", [image], {**site.plain, CPU_ARCH: "arm64, amd64"})
    system.wait_nodes("both")

    assert platforms(system, "both") == [f"linux/{each}" for each in BOTH]
    for node in system.cluster.nodes:
        assert layers(node) < 2 * _SIZE + 2_000_000, "busybox and one of the two layers"
    with site.registry_off():
        run_pods(
            system.cluster, *(PodSpec(f"both-{node.name}", image, node=node.name) for node in system.cluster.nodes)
        )


def test_without_the_annotation_a_cache_is_for_the_nodes_that_there_are(site: Site, system: Installed) -> None:
    image = site.registry.push("architectures/nodes:1", for_both(site))
    site.create("nodes", image)
    system.wait_nodes("nodes")

    assert platforms(system, "nodes") == [f"linux/{HERE}"]


def test_a_cache_of_another_architecture_is_for_no_node(site: Site, system: Installed) -> None:
    image = site.registry.push("architectures/other:1", for_both(site))
    system.create("other", [image], {**site.plain, CPU_ARCH: ELSEWHERE})
    system.wait_phase("other", "Ready")
    site.create("own", image)  # the same image for another architecture: neither is in the other's way
    system.wait_nodes("own")

    assert system.counts("other") == (0, 0, 0)
    assert all("other" not in system.states(node) for node in system.cluster.nodes)
    system.delete("other")
    with site.registry_off():
        run_pods(system.cluster, *(PodSpec(f"own-{node.name}", image, node=node.name) for node in system.cluster.nodes))


def test_what_is_around_a_reference_is_built_once(site: Site, system: Installed) -> None:
    image = site.registry.push("architectures/blank:1", site.image())
    system.create("blank", [f"\u00a0{image} "], site.plain)
    system.wait_nodes("blank")
    first = at(system.get("blank"), "status", "imageCacheId")

    system.cluster.kubectl("annotate", "imagecache", "blank", "example.com/look=again")
    system.wait_nodes("blank")

    assert at(system.get("blank"), "status", "imageCacheId") == first
    assert [at(each, "image") for each in at(system.get("blank"), "status", "images") or ()] == [image]  # type: ignore[union-attr]
