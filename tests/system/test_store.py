"""The store between controller and nodes: away, damaged on the wire, damaged on the disk, no space on a node."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imagecache.kube.objects import text
from testkit.cluster.installed import Installed
from testkit.cluster.pods import PodSpec, run_pods
from testkit.peers.processes import wait_until
from testkit.peers.programs import PeerFailed

from .conftest import Site

MB = 1_000_000


def layer_files(store: Path) -> set[Path]:
    return set(store.glob("layers/sha256/*/*.erofs")) | set(store.glob("chains/sha256/*/*.erofs"))


def damage(file: Path) -> None:
    """One byte in the middle of the tar."""
    middle = file.stat().st_size // 2
    with file.open("r+b") as opened:
        opened.seek(middle)
        byte = opened.read(1)
        opened.seek(middle)
        opened.write(bytes([byte[0] ^ 0xFF]))
        os.fsync(opened.fileno())


def test_the_store_is_away_for_a_while(site: Site, system: Installed) -> None:
    node = system.cluster.nodes[0]
    agent = system.agent(node)
    agent.stop()
    image = site.registry.push("store/away:1", site.image(2 * MB))
    site.create("away", image)
    system.wait_phase("away", "Ready")
    system.controller.stop()
    agent.start()
    assert wait_until(lambda: "StoreUnreachable" in str(system.report(node)), seconds=60, every=0.2), system.report(
        node
    )

    system.controller.start()
    system.controller.wait_leading()

    system.wait_nodes("away")


def test_a_layer_that_is_damaged_in_the_store_reaches_no_container(site: Site, system: Installed) -> None:
    """A node believes the digest that the API server has, not the store."""
    node = system.cluster.nodes[0]
    agent = system.agent(node)
    agent.stop()
    before = layer_files(system.controller.store)
    image = site.registry.push("store/damaged:1", site.image(3 * MB))
    site.create("damaged", image)
    system.wait_phase("damaged", "Ready")
    fresh = max(layer_files(system.controller.store) - before, key=lambda file: file.stat().st_size)
    damage(fresh)
    agent.start()
    assert wait_until(lambda: "DigestMismatch" in str(system.states(node).get("damaged")), seconds=60, every=0.2)
    assert not (node.store / fresh.relative_to(system.controller.store)).exists()

    damage(fresh)  # once more: the byte is what it was

    system.wait_nodes("damaged", seconds=180)


def test_a_layer_that_is_damaged_on_a_nodes_disk(site: Site, system: Installed) -> None:
    """It is set aside by a check, and fetched again by itself."""
    node = system.cluster.nodes[0]
    agent = system.agent(node)
    before = layer_files(node.store)
    image = site.registry.push("store/disk:1", site.image(3 * MB))
    site.create("disk", image)
    system.wait_ready("disk")
    fresh = max(layer_files(node.store) - before, key=lambda file: file.stat().st_size)
    damage(fresh)

    with pytest.raises(PeerFailed, match="corrupt"):
        agent.command("check", "--deep", "--quarantine")

    assert wait_until(fresh.exists, seconds=90, every=0.5)
    assert "no problems" in agent.command("check", "--deep")
    with site.registry_off():
        run_pods(system.cluster, PodSpec("disk", image, node=node.name))


def test_no_space_on_one_node(site: Site, system: Installed) -> None:
    """It is told before the first byte, and concerns that node alone; it heals when there is space."""
    node = system.cluster.nodes[1]
    agent = system.agent(node)
    agent.settings["IMAGECACHE_RESERVE"] = "0.99"
    agent.restart()
    site.create("space", site.registry.push("store/space:1", site.image(3 * MB)))
    system.wait_phase("space", "Ready")
    assert wait_until(lambda: "InsufficientSpace" in str(system.states(node).get("space")), seconds=60, every=0.2)
    assert wait_until(lambda: system.counts("space")[1] == 2, seconds=60, every=0.2)

    del agent.settings["IMAGECACHE_RESERVE"]
    agent.restart()

    system.wait_nodes("space")


@pytest.mark.timeout(300)
def test_a_full_disk_ends_a_fetch_and_nothing_else(site: Site, system: Installed) -> None:
    """What the budget did not know of: another program took the space meanwhile."""
    node = system.cluster.nodes[0]
    agent = system.agent(node)
    agent.stop()
    image = site.registry.push("store/full:1", site.image(40 * MB))
    site.create("full", image)
    system.wait_phase("full", "Ready")
    downloads = node.store / "downloads"
    node.run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", f"/var/lib/imagecache/{downloads.name}")
    agent.start()
    assert wait_until(lambda: "NoSpace" in str(system.states(node).get("full")), seconds=60, every=0.2)
    node.run("umount", f"/var/lib/imagecache/{downloads.name}")

    system.wait_nodes("full", seconds=180)
    with site.registry_off():
        run_pods(system.cluster, PodSpec("full", image, node=node.name))


def test_nobody_else_reads_the_store(system: Installed) -> None:
    """A pod's own token is for the API server, not for the store."""
    system.cluster.kubectl("create", "serviceaccount", "curious")
    try:
        curious = ["create", "token", "curious", "--audience=imagecache"]
        wrong_audience = ["create", "token", "imagecache-agent", "--namespace=imagecache-system"]
        for words, status in ((curious, 403), (wrong_audience, 401)):
            token = system.cluster.kubectl(*words).strip()
            assert system.ask_store("/v1/bundles/imc-" + "0" * 20, token) == status
        assert system.ask_store("/v1/bundles/imc-" + "0" * 20, "") == 401
    finally:
        system.cluster.kubectl("delete", "serviceaccount", "curious")


def test_a_selector_chooses_nodes(site: Site, system: Installed) -> None:
    system.cluster.kubectl("label", "node", system.cluster.nodes[2].name, "imagecache-test=chosen")
    image = site.registry.push("store/selected:1", site.image())
    selector = {**site.plain, "imagecache.dev/node-selector": "imagecache-test=chosen"}
    system.create("selected", [image], selector)

    system.wait_phase("selected", "Ready")
    system.wait_nodes("selected", 1)

    assert [node.name for node in system.cluster.nodes if "selected" in system.states(node)] == [
        system.cluster.nodes[2].name
    ]
    assert text(system.states(system.cluster.nodes[2])["selected"], "state") == "Ready"
    system.cluster.kubectl("label", "node", system.cluster.nodes[2].name, "imagecache-test-")
    assert wait_until(lambda: "selected" not in system.states(system.cluster.nodes[2]), seconds=60, every=0.2)
