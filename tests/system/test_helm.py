"""The chart on a real cluster: native and prepull mode, a shared directory; everything from our own image.

Proxy mode is in ``test_systemd``. Here too systemd runs the node and restarts containerd when it is told to.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagecache.match import keys
from testkit.cluster.accounts import NAMESPACE
from testkit.cluster.chart import ChartSite
from testkit.cluster.cluster import Cluster
from testkit.cluster.node import Node, NodeSpec
from testkit.cluster.pods import PodSpec, messages, run_pods
from testkit.cluster.programs import kubernetes
from testkit.images import busybox_image, tar_of
from testkit.peers.processes import mounts_below, processes_of, wait_until
from testkit.peers.programs import environment, find, run
from testkit.peers.registry import Registry
from testkit.peers.workspace import workspace
from testkit.store import leased
from tools.install.values import LEASES

CONTROLLER_USER = 65532
INSTALL = Path(__file__).resolve().parents[2] / "docs" / "install.md"
DROP_IN = "/etc/containerd/conf.d/imagecache.toml"
PROGRAM = "/opt/imagecache/current/bin/imagecache"
CACHE = "imagecaches.eci.alibabacloud.com"
AUTHENTICATED = 11.0
"""Seconds: an API server knows a token for ten (kube-apiserver, TokenSuccessCacheTTL)."""
pytestmark = pytest.mark.timeout(600)


@dataclass
class Place(ChartSite):
    """An empty cluster of one node, ready for the chart, and a registry for images."""

    registry: Registry

    @property
    def node(self) -> Node:
        return self.cluster.nodes[0]


@pytest.fixture
def place() -> Iterator[Place]:
    with workspace() as directory:
        with (
            Cluster(directory / "cluster", [NodeSpec("2.4", systemd=True)]) as cluster,
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
    place.rolled_out("deployment/imagecache-controller")
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

    waits = PodSpec("waits", image, annotations={keys.PIN: "nothing"})
    cluster.apply(waits.document())
    held = ("get", "pod", "waits", "--output=jsonpath={.spec.schedulingGates[*].name}")
    assert cluster.kubectl(*held) == keys.GATE

    place.helm("uninstall", "imagecache", "--wait", "--timeout=120s")
    cluster.kubectl("wait", "--for=delete", "pods", "--all", f"--namespace={NAMESPACE}", "--timeout=120s")

    assert not drop_ins(node)
    assert cluster.kubectl(*held) == ""
    left = cluster.kubectl("get", "mutatingadmissionpolicies,mutatingadmissionpolicybindings,jobs", "-A")
    assert "imagecache" not in left
    assert wait_until(lambda: reads(cluster), seconds=30, every=0.5)
    place.registry.start()
    run_pods(cluster, PodSpec("after", image, node=node.name, pull_policy="Always"))


def test_an_account_that_is_refused_is_no_removal(place: Place) -> None:
    """403, then 401, to a pod that is being ended: containerd keeps its drop-in and is not restarted."""
    cluster, node = place.cluster, place.node
    place.deploy("install", "mode=native")
    place.rolled_out("daemonset/imagecache-agent")
    started = ("systemctl", "show", "containerd", "--property=ExecMainStartTimestampMonotonic")
    before = node.run(*started)

    for refused in ("rolebinding", "serviceaccount"):
        cluster.kubectl("delete", f"{refused}/imagecache-agent", f"--namespace={NAMESPACE}")
        time.sleep(AUTHENTICATED)
        agents = ("pods", "--selector=app.kubernetes.io/component=agent", f"--namespace={NAMESPACE}")
        cluster.kubectl("delete", *agents, "--timeout=150s")
        assert drop_ins(node)
        place.deploy("upgrade", "mode=native")
        place.rolled_out("daemonset/imagecache-agent")

    assert node.run(*started) == before


def test_a_shared_directory_of_a_controller_that_is_nobody(place: Place, tmp_path: Path) -> None:
    """Agents are root, the controller is not, and each must read what the other writes there."""
    cluster, node = place.cluster, place.node
    image = place.registry.push("team/app:1", busybox_image(tmp_path / "app", tar_of({"srv": None, "srv/0": b"app\n"})))
    os.chown(node.store, CONTROLLER_USER, CONTROLLER_USER)
    place.deploy("install", "mode=native", "store.sharedHostPath=/var/lib/imagecache")
    place.rolled_out("daemonset/imagecache-agent")
    place.rolled_out("deployment/imagecache-controller")

    other = place.registry.push("team/other:1", busybox_image(tmp_path / "other", tar_of({"other": b"1"})))
    cluster.kubectl("create", "--filename=-", stdin=_manifest(other, place.registry, "other"))
    cluster.kubectl("wait", "--for=jsonpath={.status.nodes.ready}=1", f"{CACHE}/other", "--timeout=120s")
    before = set(node.store.rglob("*.erofs"))
    cluster.kubectl("create", "--filename=-", stdin=_manifest(image, place.registry))
    place.counts("app", 1)
    (layer,) = set(node.store.rglob("*.erofs")) - before
    place.registry.stop()
    run_pods(cluster, PodSpec("app", image, node=node.name))
    cluster.kubectl("delete", f"{CACHE}/app", "--timeout=60s")
    assert cluster.kubectl("exec", "app", "--", "cat", "/srv/0") == "app\n"
    assert layer in leased(node.store, node.store / LEASES)
    cluster.kubectl("delete", "pod", "app", "--now")
    assert wait_until(lambda: layer not in leased(node.store, node.store / LEASES), seconds=60, every=0.5)
    cluster.kubectl("delete", f"{CACHE}/other", "--timeout=60s")  # after which the controller collects
    assert wait_until(lambda: not layer.exists(), seconds=60, every=0.5)


def test_a_containerd_and_a_certificate_of_ones_own(place: Place, tmp_path: Path) -> None:
    """The administrator configures containerd and restarts it, and takes that back; everything else is as ever."""
    cluster, node = place.cluster, place.node
    image = place.registry.push("team/app:1", busybox_image(tmp_path / "app", tar_of({"srv": None, "srv/0": b"app\n"})))
    own_certificate(cluster, tmp_path)
    untouched = node.containerd.config.read_text()
    place.deploy("install", "containerd.configure=false", "tls.existingSecret=imagecache-store-tls")
    place.rolled_out("deployment/imagecache-controller")
    assert wait_until(lambda: PROGRAM in node.run("sh", "-c", f"ls {PROGRAM} || true"), seconds=60, every=0.2)
    node.run("sh", "-c", f"{PROGRAM} containerd-config print >{DROP_IN}; systemctl restart containerd")
    place.rolled_out("daemonset/imagecache-agent")

    cluster.kubectl("create", "--filename=-", stdin=_manifest(image, place.registry))
    place.counts("app", 1)
    place.registry.stop()
    run_pods(cluster, PodSpec("app", image, node=node.name))
    cluster.kubectl("delete", f"{CACHE}/app", "--timeout=60s")
    place.helm("uninstall", "imagecache", "--wait", "--timeout=120s")
    cluster.kubectl("wait", "--for=delete", "pods", "--all", f"--namespace={NAMESPACE}", "--timeout=120s")
    assert reads(cluster)
    assert node.containerd.config.read_text() == untouched

    cluster.kubectl("delete", "pod", "app", "--now")
    node.run("sh", "-c", f"rm {DROP_IN}; systemctl restart containerd")
    assert wait_until(lambda: _left(node), seconds=150, every=1)  # the timer looks once a minute
    place.registry.start()
    run_pods(cluster, PodSpec("after", image, node=node.name))


def drop_ins(node: Node) -> list[Path]:
    """Beside containerd's main file, or in a directory that it imports."""
    folder = node.containerd.config.parent
    return [*folder.glob("*imagecache.toml"), *folder.glob("*/*imagecache.toml")]


def own_certificate(cluster: Cluster, directory: Path) -> None:
    """As docs/install.md has it, word for word."""
    (script,) = re.findall(r"^(openssl req .*)^kubectl apply -k", INSTALL.read_text(), re.MULTILINE | re.DOTALL)
    env = {**environment(before=[kubernetes("kubectl").parent]), "KUBECONFIG": str(cluster.kubeconfig)}
    run([find("sh"), "-euc", script], cwd=directory, env=env)


def _left(node: Node) -> bool:
    """The host has removed everything: asked to try now, and not only in a minute."""
    return "gone" in node.run("sh", "-c", f"systemctl start imagecache-leave; test -e {PROGRAM} || echo gone")


def test_prepull(place: Place, tmp_path: Path) -> None:
    """Nothing of the node is touched: the runtime has the images ahead of the pods."""
    image = place.registry.push("team/app:1", busybox_image(tmp_path / "app", tar_of({"srv": None, "srv/0": b"app\n"})))
    place.select(selected=True)
    place.deploy("install", "mode=prepull", "agent.nodeSelector.pool=caches")
    place.rolled_out("deployment/imagecache-controller")
    place.rolled_out("daemonset/imagecache-agent")

    place.cluster.kubectl("create", "--filename=-", stdin=_manifest(image, place.registry))
    place.cluster.kubectl("wait", "--for=jsonpath={.status.nodes.ready}=1", f"{CACHE}/app", "--timeout=120s")
    place.registry.stop()
    run_pods(place.cluster, PodSpec("app", image, node=place.node.name))

    assert not drop_ins(place.node)
    place.select(selected=False)
    assert "app" in place.cluster.kubectl("get", CACHE)
    place.counts("app", 0)
    place.select(selected=True)
    place.counts("app", 1)


def _manifest(image: str, registry: Registry, name: str = "app") -> str:
    document = {
        "apiVersion": "eci.alibabacloud.com/v1",
        "kind": "ImageCache",
        "metadata": {"name": name, "annotations": {"k8s.aliyun.com/plain-http-registry": registry.address}},
        "spec": {"images": [image]},
    }
    return json.dumps(document)
