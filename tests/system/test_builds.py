"""Builds that nodes follow: a node is ready a moment after the cache; one that fails leaves nothing."""

from __future__ import annotations

import json

from imagecache.kube.objects import text
from testkit.cluster.installed import Installed
from testkit.cluster.node import Node
from testkit.cluster.pods import PodSpec, run_pods
from testkit.peers.processes import wait_until

from .conftest import Site

MB = 1_000_000
LAYERS = [4 * MB] * 12
"""The first is there after two seconds of ``Site.slowly``, the last eight seconds later."""
_LONGEST = 120
"""Seconds, on a machine that may do much else."""


def layers(node: Node) -> int:
    return sum(file.stat().st_size for file in node.store.rglob("*.erofs"))


def coming(node: Node) -> int:
    """Bytes of layer images on their way, and of those that are here already."""
    sizes = [layers(node)]
    for file in (node.store / "staging").iterdir():
        try:
            sizes.append(file.stat().st_size)
        except FileNotFoundError:  # it has its name now
            continue
    return sum(sizes)


def test_a_cache_reaches_its_nodes_while_it_is_built(site: Site, system: Installed) -> None:
    image = site.slowly(site.registry.push("builds/early:1", site.image(*LAYERS)))
    site.create("early", image)

    assert wait_until(lambda: any(map(coming, system.cluster.nodes)), seconds=_LONGEST, every=0.01)
    with site.registry.frozen():  # the build cannot end, however slow this process is to look
        assert wait_until(lambda: all(map(coming, system.cluster.nodes)), seconds=_LONGEST, every=0.02)
        assert system.phase("early") in {"Pending", "Creating"}
    system.wait_nodes("early")

    with site.registry_off():
        pods = [PodSpec(f"early-{node.name}", image, node=node.name) for node in system.cluster.nodes]
        run_pods(system.cluster, *pods)


def test_an_agent_is_killed_while_it_follows_a_build(site: Site, system: Installed) -> None:
    node = system.cluster.nodes[0]
    agent = system.agent(node)
    site.create("killed", site.slowly(site.registry.push("builds/killed:1", site.image(*LAYERS))))
    assert wait_until(lambda: coming(node) > 0, seconds=_LONGEST, every=0.01)

    with site.registry.frozen():
        agent.kill()
        agent.start()

    system.wait_nodes("killed")
    assert wait_until(lambda: coming(node) == layers(node), seconds=_LONGEST, every=0.2)


def test_what_nodes_have_of_a_build_goes_when_it_fails(site: Site, system: Installed) -> None:
    """The smallest layer is made last, and is not what the image's config says."""
    made = site.image(*LAYERS, 1000)
    document = json.loads(made.blob(made.descriptor.digest).read_bytes())
    document["layers"][-1] = document["layers"][0]
    image = site.slowly(site.registry.push_manifest("builds/wrong:1", made, json.dumps(document).encode()))
    site.create("wrong", image)
    assert wait_until(lambda: all(map(coming, system.cluster.nodes)), seconds=_LONGEST, every=0.01)

    found = system.wait_phase("wrong", "Failed")

    assert text(found, "status", "reason").startswith("DigestMismatch: ")
    assert wait_until(lambda: not any(map(coming, system.cluster.nodes)), seconds=_LONGEST, every=0.2)
