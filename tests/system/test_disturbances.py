"""Everything that can end at any moment, ends: the work goes on, nothing is done twice, pods do not notice."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.link import Link
from imagecache.kube.objects import at, text
from testkit.cluster.installed import Installed
from testkit.cluster.pods import PodSpec, run_pods
from testkit.peers.processes import wait_until

from .conftest import Site

MB = 1_000_000


def cache_id(system: Installed, name: str) -> str:
    return text(system.get(name), "status", "imageCacheId")


def percent(system: Installed, name: str) -> int:
    return int(text(system.get(name), "status", "progress").rstrip("%") or 0)


def layer_downloads(site: Site, repository: str) -> Counter[str]:
    """Answers of the registry with whole layers or the rest of them, by path."""
    asked = site.registry.requests()
    return Counter(each.path for each in asked if f"/{repository}/blobs/" in each.path and each.status == 200)


def test_the_controller_is_killed_in_the_middle_of_a_build(site: Site, system: Installed) -> None:
    image = site.slowly(site.registry.push("disturbances/build:1", site.image(*[5 * MB] * 5)))
    site.registry.clear_requests()
    site.create("build", image)
    assert wait_until(lambda: percent(system, "build") > 5, seconds=30, every=0.02)
    before = cache_id(system, "build")

    system.controller.kill()
    system.controller.start()
    system.wait_ready("build")

    assert cache_id(system, "build") == before
    assert max(layer_downloads(site, "disturbances/build").values()) <= 2


def test_an_agent_is_killed_in_the_middle_of_a_fetch(site: Site, system: Installed) -> None:
    node = system.cluster.nodes[0]
    agent = system.agent(node)
    agent.stop()
    site.create("fetch", site.registry.push("disturbances/fetch:1", site.image(*[10 * MB] * 4)))
    system.wait_phase("fetch", "Ready")
    direct = agent.settings["IMAGECACHE_STORE_URL"]
    host, _, port = direct.removeprefix("https://").partition(":")
    with Link((host, int(port)), 40_000_000, 0, host=host) as link:
        agent.settings["IMAGECACHE_STORE_URL"] = f"https://{link.address}"
        agent.start()
        system.wait_state(node, "fetch", "Fetching")

        agent.kill()
        agent.settings["IMAGECACHE_STORE_URL"] = direct
        agent.start()

        system.wait_nodes("fetch")


def test_the_api_server_is_away_and_comes_back(site: Site, system: Installed) -> None:
    """For so long that the controller gives up its lead; who supervises it starts it again."""
    running = site.registry.push("disturbances/before:1", site.image(2 * MB))
    site.create("before", running)
    system.wait_ready("before")

    system.cluster.control.apiserver.stop()
    assert wait_until(lambda: not system.controller.running, seconds=60, every=0.2)
    system.cluster.control.apiserver.start()
    system.controller.start()

    site.create("after", site.registry.push("disturbances/after:1", site.image(2 * MB)))
    system.wait_ready("after")
    assert system.counts("before") == (3, 3, 0)


@pytest.mark.timeout(300)
def test_a_node_loses_its_mounts_and_comes_back(site: Site, system: Installed) -> None:
    image = site.registry.push("disturbances/reboot:1", site.image(2 * MB))
    site.create("reboot", image)
    system.wait_ready("reboot")
    for node in system.cluster.nodes:
        pod = PodSpec(f"reboot-{node.name}", image, node=node.name)
        run_pods(system.cluster, pod)
        with site.registry_off():
            node.restart()
            system.cluster.wait_ready(node)
            assert wait_until(lambda pod=pod: reads(system, pod), seconds=90, every=0.5)  # type: ignore[misc]


def reads(system: Installed, pod: PodSpec) -> bool:
    done = system.cluster.try_kubectl("exec", pod.name, "--", "sh", "-c", "sha256sum /srv/0")
    return not done.returncode


@pytest.mark.timeout(300)
def test_a_node_joins_later_and_leaves_again(site: Site, system: Installed) -> None:
    image = site.registry.push("disturbances/joins:1", site.image(2 * MB))
    site.create("joins", image)
    system.wait_ready("joins")

    agent = system.add_node()
    system.wait_nodes("joins", 4)
    with site.registry_off():
        run_pods(system.cluster, PodSpec("joins", image, node=agent.node.name))
    system.remove_node(agent)

    system.wait_nodes("joins", 3)
    assert wait_until(lambda: not system.report(agent.node), seconds=60, every=0.2)


def test_a_node_is_dead_while_its_cache_is_deleted(site: Site, system: Installed) -> None:
    node = system.cluster.nodes[0]
    site.create("dead", site.registry.push("disturbances/dead:1", site.image()))
    system.wait_ready("dead")
    agent = system.agent(node)
    agent.stop()

    system.delete("dead")

    agent.start()
    assert wait_until(lambda: "dead" not in system.states(node), seconds=30, every=0.2)


def test_kubelets_image_collection_is_noticed_and_healed(site: Site, system: Installed) -> None:
    image = site.registry.push("disturbances/collected:1", site.image())
    site.create("collected", image)
    system.wait_ready("collected")
    node = system.cluster.nodes[1]
    node.run("ctr", "--address", "/run/containerd/containerd.sock", "-n", "k8s.io", "images", "rm", image)

    def back() -> bool:
        listed = node.run("ctr", "--address", "/run/containerd/containerd.sock", "-n", "k8s.io", "images", "ls", "-q")
        return image in listed.splitlines()

    assert wait_until(back, seconds=90, every=0.5)


def test_20_caches_that_share_a_base(site: Site, system: Installed) -> None:
    """What is fetched is what is unique, from the registry and by each node."""
    base = site.image(20 * MB)
    images = [site.registry.push(f"disturbances/shared-{number}:1", site.on(base, MB)) for number in range(20)]
    site.registry.clear_requests()
    for number, image in enumerate(images):
        site.create(f"shared-{number}", image)
    for number in range(20):
        system.wait_ready(f"shared-{number}")

    shared = {str(layer.digest) for layer in base.layers}
    asked = Counter(each.path.rpartition("/")[2] for each in site.registry.requests() if each.status == 200)
    assert {digest: asked[digest] for digest in shared} == dict.fromkeys(shared, 1)
    for node in system.cluster.nodes:
        states = system.states(node)
        unique = {file: file.stat().st_size for file in node.store.rglob("*.erofs")}
        wanted = [int(str(at(states[f"shared-{number}"], "bytesTotal"))) for number in range(20)]
        assert sum(unique.values()) < sum(wanted) / 5
