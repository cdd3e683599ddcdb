"""Our agent as a host service of the nodes and our controller beside the cluster start, end and come back as asked.

What the product does with a cluster is shown in tests/system.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit.cluster.agent import AgentHost
from testkit.cluster.cluster import Cluster
from testkit.cluster.controller import ControllerHost
from testkit.cluster.pods import PodSpec, messages, run_pods, wait_ready
from testkit.images import busybox_image, tar_of
from testkit.peers.programs import checkout
from testkit.peers.registry import Registry

pytestmark = pytest.mark.peers
NODES = ("node-1", "node-2", "node-3")
PROXIES = NODES[:2]
MakePod = Callable[..., PodSpec]
DEFINITIONS = ("crd", "base/namespace.yaml", "base/rbac.yaml")


@pytest.fixture(scope="module")
def cached(cluster: Cluster, agents: dict[str, AgentHost], cluster_directory: Path) -> str:
    """An image that the agent of every node has attached; no node has pulled it."""
    data = tar_of({"srv": None, "srv/data": b"from the cache\n"})
    image = cluster.registry.push("cached:1", busybox_image(cluster_directory / "cached", data))
    document = {
        "apiVersion": "eci.alibabacloud.com/v1",
        "kind": "ImageCache",
        "metadata": {"name": "cached"},
        "spec": {"images": [image]},
    }
    manifest = cluster_directory / "cached.yaml"
    manifest.write_text(json.dumps(document))
    for agent in agents.values():
        agent.command("create", "-f", manifest)
    return image


def data(cluster: Cluster, pod: PodSpec) -> str:
    return cluster.kubectl("exec", pod.name, "--", "sh", "-c", "cat /srv/data")


def test_pods_start_from_the_agent_of_their_node(
    cluster: Cluster, registry_off: Registry, cached: str, pod: MakePod
) -> None:
    registry_off.stop()
    pods = [pod(image=cached, node=node) for node in NODES]
    run_pods(cluster, *pods)
    for one in pods:
        assert data(cluster, one) == "from the cache\n"
        assert any("already present on machine" in message for message in messages(cluster, one))


def test_it_may_be_killed_and_containerd_waits(
    cluster: Cluster, agents: dict[str, AgentHost], cached: str, pod: MakePod
) -> None:
    before = [pod(image=cached, node=node) for node in PROXIES]
    run_pods(cluster, *before)
    for node in PROXIES:
        agents[node].kill()
        assert not agents[node].running
    after = [pod(image=cached, node=node) for node in PROXIES]
    cluster.apply(*(one.document() for one in after))
    assert [data(cluster, one) for one in before] == ["from the cache\n"] * 2
    for node in PROXIES:
        agents[node].start()
    for one in after:
        wait_ready(cluster, one)


def test_its_settings_are_new_at_the_next_start(agents: dict[str, AgentHost]) -> None:
    agent = agents[NODES[0]]
    agent.settings["IMAGECACHE_LOG_LEVEL"] = "debug"
    agent.restart()
    environ = Path(f"/proc/{agent.daemon.pid}/environ").read_bytes().split(b"\0")
    assert b"IMAGECACHE_LOG_LEVEL=debug" in environ
    del agent.settings["IMAGECACHE_LOG_LEVEL"]
    agent.restart()


@pytest.mark.parametrize("name", NODES)
def test_it_is_there_after_a_power_cut(
    cluster: Cluster, agents: dict[str, AgentHost], registry_off: Registry, cached: str, pod: MakePod, name: str
) -> None:
    registry_off.stop()
    node, agent = cluster.node(name), agents[name]
    node.stop()
    assert not agent.running
    node.start()
    cluster.wait_ready(node)
    assert agent.running
    one = pod(image=cached, node=name)
    run_pods(cluster, one)
    assert data(cluster, one) == "from the cache\n"


# the controller


@pytest.fixture(scope="module")
def definitions(cluster: Cluster) -> Iterator[None]:
    """Resources and roles, as an installation has them."""
    files = [f"--filename={checkout() / 'config' / name}" for name in DEFINITIONS]
    cluster.kubectl("apply", *files)
    yield
    cluster.kubectl("delete", "--wait=false", *files)


@pytest.fixture
def controller(cluster: Cluster, definitions: None) -> Iterator[ControllerHost]:  # noqa: ARG001 - for what it does
    with ControllerHost(cluster) as running:
        running.wait_leading()
        yield running


def ask(cluster: Cluster, controller: ControllerHost) -> int:
    """HTTP status of the served store for somebody without a token; its certificate is proved."""
    trust = ssl.create_default_context(cafile=str(cluster.credentials.ca))
    address = controller.store_url.removeprefix("https://")
    connection = http.client.HTTPSConnection(address, timeout=10, context=trust)
    try:
        connection.request("GET", "/bundles")
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_controller_leads_serves_and_comes_back(cluster: Cluster, controller: ControllerHost) -> None:
    assert ask(cluster, controller) == http.HTTPStatus.UNAUTHORIZED
    controller.kill()
    with pytest.raises(ConnectionRefusedError):
        ask(cluster, controller)
    controller.start()
    controller.wait_leading()
    assert ask(cluster, controller) == http.HTTPStatus.UNAUTHORIZED


def test_a_second_controller_waits_for_its_turn(cluster: Cluster, controller: ControllerHost) -> None:
    with ControllerHost(cluster, "second") as second:
        assert not second.leads
        controller.stop()
        second.wait_leading()
        assert second.leads
