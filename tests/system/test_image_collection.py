"""kubelet's image collection takes what others have left, never what we have attached: making room of that is ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

import pytest

from testkit.cluster.agent import AgentHost
from testkit.cluster.installed import Installed
from testkit.peers.cri import Cri
from testkit.peers.processes import wait_until

from .conftest import Site

pytestmark = pytest.mark.timeout(300)
MB = 1_000_000
COLLECTING: Mapping[str, object] = {
    "imageGCHighThresholdPercent": 1,
    "imageGCLowThresholdPercent": 0,
    # so that kubelet collects when it starts; what only the thresholds ask for, it leaves for another five minutes
    "imageMinimumGCAge": "1ns",
    "imageMaximumGCAge": "2ns",
}
"""Every image that no container runs on is too much for this kubelet, unless it is pinned."""


@pytest.fixture(scope="module")
def agent(whole_site: Site) -> Iterator[AgentHost]:
    """Of a node whose kubelet collects whatever it may."""
    agent = whole_site.system.add_node(kubelet=COLLECTING)
    yield agent
    whole_site.system.remove_node(agent)


def pull(agent: AgentHost, image: str) -> None:
    """As kubelet does it."""

    async def pulled() -> None:
        async with Cri(agent.node.containerd.address) as cri:
            await cri.pull(image)

    asyncio.run(pulled())


def present(agent: AgentHost) -> dict[str, bool]:
    """What kubelet sees: by tag, whether the image is pinned."""

    async def listed() -> dict[str, bool]:
        async with Cri(agent.node.containerd.address) as cri:
            return {tag: image.pinned for image in await cri.images() for tag in image.repo_tags}

    return asyncio.run(listed())


def collect(agent: AgentHost) -> None:
    """Let kubelet collect. It then says that this was not enough: it cannot empty the machine's disk."""
    log = agent.node.kubelet.daemon.log
    before = log.stat().st_size
    agent.node.kubelet.restart()
    assert wait_until(lambda: b"Image garbage collection failed" in log.read_bytes()[before:], seconds=60, every=0.2), (
        agent.node.kubelet.daemon.tail(20)
    )


def test_what_is_pulled_goes_and_what_is_attached_stays(site: Site, system: Installed, agent: AgentHost) -> None:
    ours = [site.registry.push(f"collection/ours-{number}:1", site.image(MB)) for number in range(2)]
    theirs = site.registry.push("collection/theirs:1", site.image(MB))
    for number, image in enumerate(ours):
        site.create(f"collection-{number}", image)
        system.wait_ready(f"collection-{number}")
    pull(agent, theirs)

    collect(agent)

    found = present(agent)
    assert theirs not in found
    assert [found.get(image) for image in ours] == [True, True]


def test_an_image_that_was_pulled_before_is_kubelets(site: Site, system: Installed, agent: AgentHost) -> None:
    """Its record keeps what it had; the one that replaces it after a collection is ours."""
    image = site.registry.push("collection/before:1", site.image(MB))
    pull(agent, image)
    site.create("before", image)
    system.wait_ready("before")
    assert present(agent)[image] is False

    collect(agent)

    # it is missing until the agent looks, every 30 seconds
    assert wait_until(lambda: present(agent).get(image) is True, seconds=90, every=0.2), system.report(agent.node)


def test_our_reserve_makes_room_of_what_is_pinned(site: Site, system: Installed, agent: AgentHost) -> None:
    image = site.registry.push("collection/evicted:1", site.image(3 * MB))
    site.create("evicted", image)
    system.wait_ready("evicted")
    layers = set(agent.node.store.rglob("*.erofs"))
    assert present(agent)[image] is True

    agent.settings["IMAGECACHE_RESERVE"] = "0.99"
    agent.restart()

    assert wait_until(lambda: image not in present(agent), seconds=60, every=0.2), system.report(agent.node)
    assert wait_until(lambda: not layers & set(agent.node.store.rglob("*.erofs")), seconds=60, every=0.2)
    del agent.settings["IMAGECACHE_RESERVE"]
    agent.restart()
    assert wait_until(lambda: present(agent).get(image) is True, seconds=60, every=0.2), system.report(agent.node)
