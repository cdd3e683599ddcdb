"""Names on a real node: of two caches one owns a name, and what the node had before is there afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testkit.images import busybox_image, tar_of
from testkit.peers.containerd import Version
from testkit.peers.cri import Cri
from testkit.peers.node import CachingNode, Mode
from testkit.peers.registry import Registry

pytestmark = pytest.mark.peers
MODES: list[tuple[Version, Mode]] = [("system", "proxy"), ("2.4", "proxy"), ("2.4", "native")]


@dataclass(frozen=True)
class Pushed:
    """An image of one file, ``/srv/told``."""

    directory: Path
    registry: Registry

    def tag(self, content: str, name: str = "app:1") -> str:
        files = tar_of({"srv": None, "srv/told": content.encode()})
        return self.registry.push(f"{self.directory.name}/{name}", busybox_image(self.directory / content, files))


@pytest.fixture
def pushed(directory: Path, registry: Registry) -> Pushed:
    return Pushed(directory, registry)


@pytest.fixture(params=MODES, ids="-".join)
def node(request: pytest.FixtureRequest, directory: Path, pause: str) -> Iterator[CachingNode]:
    with CachingNode(directory / "node", *request.param, sandbox_image=pause) as running:
        yield running


async def told(node: CachingNode, image: str) -> str:
    async with Cri(node.containerd.address) as cri:
        return await cri.run(image, ["cat", "/srv/told"])


async def is_there(node: CachingNode, image: str) -> bool:
    async with Cri(node.containerd.address) as cri:
        return await cri.image_status(image) is not None


async def pull(node: CachingNode, image: str) -> None:
    async with Cri(node.containerd.address) as cri:
        await cri.pull(image)


async def test_of_two_caches_the_older_one_owns_a_name(node: CachingNode, pushed: Pushed) -> None:
    image = pushed.tag("first")
    node.create("one", [image])
    pushed.tag("second")
    assert "Name taken:" not in node.command("describe", "one")
    shown = node.create("two", [image])

    assert await told(node, image) == "first"
    assert "means another image here: ImageCache one owns it" in shown
    assert "Name taken:" in node.command("describe", "two")
    assert "Name taken:" not in node.command("describe", "one")

    pushed.registry.stop()
    try:
        node.command("delete", "one")
        assert await told(node, image) == "second"
    finally:
        pushed.registry.start()
    node.command("delete", "two")
    assert not await is_there(node, image)


async def test_what_the_node_had_before_is_there_afterwards(node: CachingNode, pushed: Pushed) -> None:
    image = pushed.tag("first")
    await pull(node, image)
    before = node.ctr("images", "ls")
    node.create("one", [image])
    node.command("delete", "one")

    assert node.ctr("images", "ls") == before
    assert await told(node, image) == "first"


async def test_a_name_that_the_node_had_means_again_what_it_meant(node: CachingNode, pushed: Pushed) -> None:
    image = pushed.tag("first")
    await pull(node, image)
    pushed.tag("second")
    node.create("one", [image])
    assert await told(node, image) == "second"

    node.command("delete", "one")
    assert await told(node, image) == "first"


async def test_what_was_pulled_meanwhile_goes_with_the_cache(node: CachingNode, pushed: Pushed) -> None:
    """Of layers that the cache has served: kubelet pulls them when a pod needs them."""
    image = pushed.tag("first")
    node.create("one", [image])
    await pull(node, image)
    node.command("delete", "one")

    assert not await is_there(node, image)
    await pull(node, image)
    assert await told(node, image) == "first"
