"""The chart in proxy mode on nodes that systemd runs: nobody but the DaemonSet and systemd does anything on them.

README's lines as they stand. A node's crash, the agent's, an upgrade and an uninstall, always with pods running.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.testing.cluster.accounts import NAMESPACE
from imagecache.testing.cluster.chart import ChartSite
from imagecache.testing.cluster.cluster import Cluster
from imagecache.testing.cluster.node import NodeSpec
from imagecache.testing.cluster.pods import PodSpec, messages, run_pods
from imagecache.testing.cluster.systemd import SystemdNode
from imagecache.testing.images import busybox_image, tar_of
from imagecache.testing.peers.containerd import VERSIONS, Version
from imagecache.testing.peers.processes import mounts_below, processes_of, wait_until
from imagecache.testing.peers.registry import Registry
from imagecache.testing.peers.workspace import workspace

AGENT = "imagecache-agent.service"
CONFIG = "/etc/imagecache/config.toml"
CACHE = "imagecaches.eci.alibabacloud.com/app"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(params=VERSIONS)
def site(request: pytest.FixtureRequest) -> Iterator[ChartSite]:
    version: Version = request.param
    with workspace() as directory:
        with Cluster(directory / "cluster", [NodeSpec(version, systemd=True)]) as cluster, ChartSite(cluster) as site:
            yield site
            for words in (["get", "pods,events", "-A"], ["logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/name"]):
                done = cluster.try_kubectl(*words)
                sys.stdout.write(done.stdout + done.stderr)
            sys.stdout.writelines(log.read_text(errors="replace") for log in node_of(site).directory.glob("*agent.log"))
        assert not processes_of(directory), "processes left behind"
        assert not mounts_below(directory), "mounts left behind"


def node_of(site: ChartSite) -> SystemdNode:
    (node,) = site.cluster.nodes
    assert isinstance(node, SystemdNode)
    return node


def started(node: SystemdNode, unit: str) -> int:
    """When it was last active, in microseconds since the machine booted; 0 when it is not."""
    shown = node.systemctl("show", "--property=ActiveState,ActiveEnterTimestampMonotonic", unit)
    found = dict(line.split("=", 1) for line in shown.split())
    return int(found["ActiveEnterTimestampMonotonic"]) if found["ActiveState"] == "active" else 0


def reads(cluster: Cluster, pod: str) -> bool:
    """Right after a restart of containerd kubelet has no connection to it."""
    return cluster.try_kubectl("exec", pod, "--", "cat", "/srv/0").stdout == "app\n"


def restarts(node: SystemdNode) -> int:
    return int(node.systemctl("show", "--property=NRestarts", "--value", AGENT))


def test_a_node_whose_agent_is_systemds(site: ChartSite, tmp_path: Path) -> None:
    cluster, node = site.cluster, node_of(site)
    files = busybox_image(tmp_path / "app", tar_of({"srv": None, "srv/0": b"app\n"}))
    with Registry(tmp_path / "team", host=cluster.address) as registry:
        cluster.trust(registry)
        image = registry.push("team/app:1", files)
        site.deploy("install")
        site.name_store()
        site.rolled_out("deployment/imagecache-controller")
        site.rolled_out("daemonset/imagecache-agent")
        cluster.kubectl("create", "--filename=-", stdin=manifest(image, registry))
        cluster.kubectl("wait", "--for=jsonpath={.status.nodes.ready}=1", CACHE, "--timeout=120s")
    # the registry is off from here on
    run_pods(cluster, PodSpec("app", image, node=node.name))
    assert any("already present on machine" in line for line in messages(cluster, PodSpec("app", image)))

    crashes(site, image)
    power_cut(site)
    upgrade(site, image)
    uninstall(site)


def crashes(site: ChartSite, image: str) -> None:
    """However often and however long: who asks meanwhile waits, and systemd does not give up."""
    cluster, node = site.cluster, node_of(site)
    for number in range(8):
        assert wait_until(lambda: started(node, AGENT) > 0, seconds=30)
        node.systemctl("kill", "--signal=SIGKILL", AGENT)
        if number == 0:
            run_pods(cluster, PodSpec("crash", image, node=node.name))

    config = node.run("cat", CONFIG)
    node.run("sh", "-c", f"echo 'mode = [' >{CONFIG}")
    before = restarts(node)
    assert wait_until(lambda: restarts(node) > before + 2, seconds=60, every=0.5)
    node.run("sh", "-c", f"printf %s '{config}' >{CONFIG}")
    run_pods(cluster, PodSpec("error", image, node=node.name))
    assert started(node, AGENT)


def power_cut(site: ChartSite) -> None:
    """The agent is there before containerd, and the node does not need the DaemonSet for that."""
    cluster, node = site.cluster, node_of(site)
    node.restart()
    assert 0 < started(node, AGENT) < started(node, "containerd.service")
    assert wait_until(lambda: reads(cluster, "app"), seconds=60, every=0.5)
    site.rolled_out("daemonset/imagecache-agent")


def upgrade(site: ChartSite, image: str) -> None:
    """containerd goes on."""
    cluster, node = site.cluster, node_of(site)
    agent, containerd = started(node, AGENT), started(node, "containerd.service")
    site.deploy("upgrade", "taint.timeoutSeconds=120")
    site.rolled_out("daemonset/imagecache-agent")
    assert started(node, AGENT) > agent
    assert started(node, "containerd.service") == containerd
    run_pods(cluster, PodSpec("again", image, node=node.name))
    assert reads(cluster, "app")


def uninstall(site: ChartSite) -> None:
    """The service serves until the last container has gone, and takes everything with it."""
    cluster, node = site.cluster, node_of(site)
    containerd = started(node, "containerd.service")
    cluster.kubectl("delete", CACHE, "--timeout=60s")
    site.helm("uninstall", "imagecache", "--wait", "--timeout=150s")
    cluster.kubectl("wait", "--for=delete", "pods", "--all", f"--namespace={NAMESPACE}", "--timeout=150s")
    assert started(node, "containerd.service") > containerd
    assert wait_until(lambda: reads(cluster, "app"), seconds=30, every=0.5)
    assert started(node, AGENT)
    cluster.kubectl("delete", "pods", "--all", "--now")
    assert wait_until(lambda: not left_on(node), seconds=150, every=1), left_on(node)


def left_on(node: SystemdNode) -> list[str]:
    """Files, units and mounts of ours; what is in /run goes at the next boot, too."""
    places = ["/opt/imagecache", "/etc/imagecache", "/run/imagecache/*.sock", "/etc/containerd/imagecache.toml"]
    found = node.run("sh", "-c", f"ls -d {' '.join(places)} /etc/systemd/system/*imagecache* 2>/dev/null; true")
    units = node.systemctl("list-units", "--all", "--plain", "--no-legend", "imagecache-*")
    mounts = node.run("sh", "-c", "grep /var/lib/imagecache/ /proc/mounts; true")
    return [*found.split(), *units.splitlines(), *mounts.splitlines()]


def manifest(image: str, registry: Registry) -> str:
    document = {
        "apiVersion": "eci.alibabacloud.com/v1",
        "kind": "ImageCache",
        "metadata": {"name": "app", "annotations": {"k8s.aliyun.com/plain-http-registry": registry.address}},
        "spec": {"images": [image]},
    }
    return json.dumps(document)
