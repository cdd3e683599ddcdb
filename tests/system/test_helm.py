"""The chart on a real cluster: everything from our own image, installed, upgraded and removed with pods running.

No systemd runs here, so the test restarts containerd where the installer has configured it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from imagecache.testing.cluster.accounts import NAMESPACE
from imagecache.testing.cluster.chart import ChartSite
from imagecache.testing.cluster.cluster import Cluster
from imagecache.testing.cluster.node import Node, NodeSpec
from imagecache.testing.cluster.pods import PodSpec, messages, run_pods
from imagecache.testing.images import busybox_image, tar_of
from imagecache.testing.peers.agent import AgentService
from imagecache.testing.peers.containerd import Version
from imagecache.testing.peers.processes import mounts_below, processes_of, wait_until
from imagecache.testing.peers.registry import Registry
from imagecache.testing.peers.workspace import workspace
from imagecache.testing.store import held

PROGRAM = Path("/opt/imagecache/current/bin/imagecache")
CONTROLLER_USER = 65532
CACHE = "imagecaches.eci.alibabacloud.com"
pytestmark = pytest.mark.timeout(600)


@dataclass
class Place(ChartSite):
    """An empty cluster of one node, ready for the chart, and a registry for images."""

    registry: Registry

    @property
    def node(self) -> Node:
        return self.cluster.nodes[0]

    def select(self, *, selected: bool) -> None:
        """By the label ``pool``; returns when the agent's Pod is there, or is gone."""
        self.cluster.kubectl("label", "node", self.node.name, "pool=caches" if selected else "pool-")
        pods = ["pods", "--selector=app.kubernetes.io/component=agent", f"--namespace={NAMESPACE}"]
        if not selected:
            self.cluster.kubectl("wait", "--for=delete", *pods, "--timeout=150s")

    def counts_on(self, nodes: int) -> None:
        """The cache ``app`` is meant for this many nodes, and ready on them."""
        each = [f"--for=jsonpath={{.status.nodes.{count}}}={nodes}" for count in ("desired", "ready")]
        for condition in each:
            self.cluster.kubectl("wait", condition, f"{CACHE}/app", "--timeout=120s")
        assert self.cluster.kubectl("get", "nodeimagecaches", "--output=name").count("/") == nodes


@pytest.fixture
def version(request: pytest.FixtureRequest) -> Version:
    """Of containerd."""
    chosen: Version = getattr(request, "param", "2.4")
    return chosen


@pytest.fixture
def place(version: Version) -> Iterator[Place]:
    with workspace() as directory:
        with (
            Cluster(directory / "cluster", [NodeSpec(version)]) as cluster,
            Registry(directory / "team", host=cluster.address) as registry,
            Place(cluster, registry) as place,
        ):
            cluster.trust(registry)
            yield place
            _explain(cluster)
        assert not processes_of(directory), "processes left behind"
        assert not mounts_below(directory), "mounts left behind"


def _explain(cluster: Cluster) -> None:
    """On the test's output, which is shown when it failed."""
    for words in (["get", "pods,events", "-A"], ["logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=imagecache"]):
        done = cluster.try_kubectl(*words, *(["--all-containers", "--tail=40"] if words[0] == "logs" else []))
        sys.stdout.write(done.stdout + done.stderr)


def reads(cluster: Cluster) -> bool:
    """Right after a restart of containerd kubelet has no connection to it."""
    return cluster.try_kubectl("exec", "app", "--", "cat", "/srv/0").stdout == "app\n"


def test_native_installed_upgraded_and_removed_with_pods_running(place: Place, tmp_path: Path) -> None:
    cluster, node = place.cluster, place.node
    image = place.registry.push("team/app:1", busybox_image(tmp_path / "app", tar_of({"srv": None, "srv/0": b"app\n"})))
    place.deploy("install", "mode=native", "taint.enabled=true")
    place.name_store()
    place.rolled_out("deployment/imagecache-controller")
    drop_in = node.containerd.config.with_name("imagecache.toml")
    assert wait_until(drop_in.exists, seconds=60, every=0.2)
    node.containerd.restart()
    place.rolled_out("daemonset/imagecache-agent")

    cluster.kubectl("create", "--filename=-", stdin=_manifest(image, place.registry))
    cluster.kubectl("wait", "--for=jsonpath={.status.nodes.ready}=1", f"{CACHE}/app", "--timeout=120s")
    place.registry.stop()
    pod = PodSpec("app", image, node=node.name)
    run_pods(cluster, pod)
    assert any("already present on machine" in line for line in messages(cluster, pod))

    cluster.kubectl("taint", "node", node.name, "imagecache.dev/not-ready=:NoSchedule")  # as nodes register
    taints = ["get", "node", node.name, "--output=jsonpath={.spec.taints}"]
    assert wait_until(lambda: "not-ready" not in cluster.kubectl(*taints), seconds=60, every=0.5)

    place.deploy("upgrade", "mode=native", "taint.enabled=true", "taint.timeoutSeconds=120")
    place.rolled_out("daemonset/imagecache-agent")
    assert cluster.kubectl("exec", "app", "--", "cat", "/srv/0") == "app\n"
    cluster.kubectl("delete", f"{CACHE}/app", "--timeout=60s")

    place.helm("uninstall", "imagecache", "--wait", "--timeout=120s")
    cluster.kubectl("wait", "--for=delete", "pods", "--all", f"--namespace={NAMESPACE}", "--timeout=120s")
    node.containerd.restart()

    assert not drop_in.exists()
    assert wait_until(lambda: reads(cluster), seconds=30, every=0.5)
    place.registry.start()
    run_pods(cluster, PodSpec("after", image, node=node.name, pull_policy="Always"))


class Systemd:
    """What systemd would do for the installed units: hold the socket, start the program at the first call."""

    def __init__(self, node: Node) -> None:
        listening = node.directory / "run" / "imagecache" / "snapshotter.sock"
        flags: list[str | Path] = [
            "--agent-socket",
            listening,
        ]  # a path of the node's, by which what a killed run left is found
        self._service = AgentService(node.directory, listening, flags, [node.enter], PROGRAM)
        self._node = node

    def __enter__(self) -> Self:
        self._service.listen()
        self._service.start(self._node.environ())
        return self

    def __exit__(self, *_: object) -> None:
        self._service.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        self._service.stop()

    def start(self) -> None:
        self._service.start(self._node.environ())


@pytest.mark.parametrize("version", ["system"], indirect=True)
def test_the_host_service_of_proxy_mode(place: Place, tmp_path: Path) -> None:
    cluster, node = place.cluster, place.node
    image = place.registry.push("team/app:1", busybox_image(tmp_path / "app", tar_of({"srv": None, "srv/0": b"app\n"})))
    place.select(selected=True)
    place.deploy("install", "mode=proxy", "agent.nodeSelector.pool=caches")
    place.name_store()
    place.rolled_out("deployment/imagecache-controller")
    drop_in = node.containerd.config.with_name("imagecache.toml")
    assert wait_until(drop_in.exists, seconds=60, every=0.2)
    configured = drop_in.read_text()
    assert node.run(PROGRAM, "--version").startswith("imagecache ")

    with Systemd(node) as systemd:
        node.containerd.restart()
        place.rolled_out("daemonset/imagecache-agent")
        cluster.kubectl("create", "--filename=-", stdin=_manifest(image, place.registry))
        cluster.kubectl("wait", "--for=jsonpath={.status.nodes.ready}=1", f"{CACHE}/app", "--timeout=120s")
        place.registry.stop()
        run_pods(cluster, PodSpec("app", image, node=node.name))

        place.deploy("upgrade", "mode=proxy", "taint.timeoutSeconds=120", "agent.nodeSelector.pool=caches")
        place.rolled_out("daemonset/imagecache-agent")
        systemd.restart()
        assert cluster.kubectl("exec", "app", "--", "cat", "/srv/0") == "app\n"
        run_pods(cluster, PodSpec("again", image, node=node.name))

        systemd.stop()  # it would go on with the unit as it is then, which only serves
        place.select(selected=False)
        place.counts_on(0)
        assert drop_in.read_text() != configured
        assert cluster.kubectl("exec", "app", "--", "cat", "/srv/0") == "app\n"
        systemd.start()
        place.select(selected=True)
        assert wait_until(lambda: drop_in.read_text() == configured, seconds=60, every=0.2)
        node.containerd.restart()
        place.rolled_out("daemonset/imagecache-agent")
        place.counts_on(1)
        cluster.kubectl("delete", f"{CACHE}/app", "--timeout=60s")

        place.helm("uninstall", "imagecache", "--wait", "--timeout=120s")
        cluster.kubectl("wait", "--for=delete", "pods", "--all", f"--namespace={NAMESPACE}", "--timeout=150s")
        node.containerd.restart()
        assert wait_until(lambda: reads(cluster), seconds=30, every=0.5)
        place.registry.start()
        run_pods(cluster, PodSpec("after", image, node=node.name, pull_policy="Always"))
        info = node.run("ctr", "--address", "/run/containerd/containerd.sock", "-n", "k8s.io", "containers", "ls")
        assert image in info


def test_a_shared_directory_of_a_controller_that_is_nobody(place: Place, tmp_path: Path) -> None:
    """Agents are root, the controller is not, and each must read what the other writes there."""
    cluster, node = place.cluster, place.node
    image = place.registry.push("team/app:1", busybox_image(tmp_path / "app", tar_of({"srv": None, "srv/0": b"app\n"})))
    os.chown(node.store, CONTROLLER_USER, CONTROLLER_USER)
    place.deploy("install", "mode=native", "store.sharedHostPath=/var/lib/imagecache")
    assert wait_until(node.containerd.config.with_name("imagecache.toml").exists, seconds=60, every=0.2)
    node.containerd.restart()
    place.rolled_out("daemonset/imagecache-agent")
    place.rolled_out("deployment/imagecache-controller")

    other = place.registry.push("team/other:1", busybox_image(tmp_path / "other", tar_of({"other": b"1"})))
    cluster.kubectl("create", "--filename=-", stdin=_manifest(other, place.registry, "other"))
    cluster.kubectl("wait", "--for=jsonpath={.status.nodes.ready}=1", f"{CACHE}/other", "--timeout=120s")
    before = set(node.store.rglob("*.erofs"))
    cluster.kubectl("create", "--filename=-", stdin=_manifest(image, place.registry))
    place.counts_on(1)
    (layer,) = set(node.store.rglob("*.erofs")) - before
    place.registry.stop()
    run_pods(cluster, PodSpec("app", image, node=node.name))
    cluster.kubectl("delete", f"{CACHE}/app", "--timeout=60s")
    assert cluster.kubectl("exec", "app", "--", "cat", "/srv/0") == "app\n"
    assert layer in held(node.store)
    cluster.kubectl("delete", "pod", "app", "--now")
    assert wait_until(lambda: layer not in held(node.store), seconds=60, every=0.5)
    cluster.kubectl("delete", f"{CACHE}/other", "--timeout=60s")  # after which the controller collects
    assert wait_until(lambda: not layer.exists(), seconds=60, every=0.5)


def test_prepull(place: Place, tmp_path: Path) -> None:
    """Nothing of the node is touched: the runtime pulls ahead of the pods."""
    image = place.registry.push("team/app:1", busybox_image(tmp_path / "app", tar_of({"srv": None, "srv/0": b"app\n"})))
    place.select(selected=True)
    place.deploy("install", "mode=prepull", "agent.nodeSelector.pool=caches")
    place.name_store()
    place.rolled_out("deployment/imagecache-controller")
    place.rolled_out("daemonset/imagecache-agent")

    place.cluster.kubectl("create", "--filename=-", stdin=_manifest(image, place.registry))
    place.cluster.kubectl("wait", "--for=jsonpath={.status.nodes.ready}=1", f"{CACHE}/app", "--timeout=120s")
    place.registry.stop()
    run_pods(place.cluster, PodSpec("app", image, node=place.node.name))

    assert not place.node.containerd.config.with_name("imagecache.toml").exists()
    place.select(selected=False)
    assert "app" in place.cluster.kubectl("get", CACHE)
    place.counts_on(0)
    place.select(selected=True)
    place.counts_on(1)


def _manifest(image: str, registry: Registry, name: str = "app") -> str:
    document = {
        "apiVersion": "eci.alibabacloud.com/v1",
        "kind": "ImageCache",
        "metadata": {"name": name, "annotations": {"k8s.aliyun.com/plain-http-registry": registry.address}},
        "spec": {"images": [image]},
    }
    return json.dumps(document)
