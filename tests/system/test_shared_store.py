"""A store that controller and nodes share: nothing is served or fetched, and no node takes away what another needs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.api.nodes import is_holder_of
from imagecache.controller.node_gc import GRACE, MARK
from imagecache.store.paths import StorePaths
from testkit.cluster.installed import TWO_NODES, Installed
from testkit.cluster.pods import PodSpec, run_pods
from testkit.images import busybox_image, tar_of
from testkit.peers.processes import wait_until
from testkit.peers.registry import Registry
from testkit.peers.workspace import workspace
from testkit.store import leased


@pytest.fixture
def directory() -> Iterator[Path]:
    with workspace() as made:
        yield made


@pytest.fixture
def system(directory: Path) -> Iterator[Installed]:
    shared = {"IMAGECACHE_STORE": str(directory / "shared"), "IMAGECACHE_STORE_URL": "", "IMAGECACHE_SERVE_ADDRESS": ""}
    with Installed(directory / "cluster", TWO_NODES, shared) as running:
        yield running


def test_two_nodes_share_a_store(system: Installed, directory: Path) -> None:
    cluster, store = system.cluster, directory / "shared"
    with Registry(directory / "team", host=cluster.address) as registry:
        cluster.trust(registry)
        plain = {"k8s.aliyun.com/plain-http-registry": registry.address}
        for name in ("other", "app"):
            before = set(store.rglob("*.erofs"))
            made = busybox_image(directory / name, tar_of({"srv": None, "srv/0": name.encode()}))
            image = registry.push(f"team/{name}:1", made)
            system.create(name, [image], plain)
            system.wait_ready(name)
    (own,) = set(store.rglob("*.erofs")) - before  # the layer that only "app" has
    pods = [PodSpec(f"app-{node.name}", image, node=node.name) for node in cluster.nodes]
    run_pods(cluster, *pods)
    assert not any(set(node.store.rglob("*.erofs")) for node in cluster.nodes)

    system.delete("app")
    cluster.kubectl("delete", "pod", pods[0].name)

    assert cluster.kubectl("exec", pods[1].name, "--", "cat", "/srv/0") == "app"
    assert own in leased(store)
    assert own.exists()
    cluster.kubectl("delete", "pod", pods[1].name)
    assert wait_until(lambda: own not in leased(store), seconds=60, every=0.2)
    system.delete("other")  # after which the controller collects
    assert wait_until(lambda: not own.exists(), seconds=60, every=0.5)


def test_a_node_that_left_for_good_holds_nothing(system: Installed, directory: Path) -> None:
    cluster, paths = system.cluster, StorePaths(directory / "shared")
    with Registry(directory / "team", host=cluster.address) as registry:
        cluster.trust(registry)
        image = registry.push("team/app:1", busybox_image(directory / "app", tar_of({"srv": None, "srv/0": b"app"})))
        system.create("app", [image], {"k8s.aliyun.com/plain-http-registry": registry.address})
        system.wait_ready("app")
    stays, leaves = cluster.nodes
    run_pods(cluster, *(PodSpec(f"app-{node.name}", image, node=node.name) for node in cluster.nodes))
    system.remove_node(system.agent(leaves))
    mark = paths.nodes / leaves.name / MARK
    held = set(paths.node_lease_files())

    system.controller.restart()

    assert wait_until(mark.exists, seconds=60, every=0.2)
    assert set(paths.node_lease_files()) == held
    mark.write_text((dt.datetime.now(dt.UTC) - GRACE).isoformat())  # a day later
    system.controller.restart()
    assert wait_until(lambda: not mark.parent.exists(), seconds=60, every=0.2)
    assert {is_holder_of(stays.name, name) for name in paths.holders()} == {True}
    assert cluster.kubectl("exec", f"app-{stays.name}", "--", "cat", "/srv/0") == "app"
