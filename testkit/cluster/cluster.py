"""The cluster as one object: up on entry, gone without a trace on exit.

Everything that it has is below one directory, which must not be below /etc, /opt, /run, /usr/local or /var: nodes have
those for themselves. A cluster of a run that was killed is removed by the next one with the same directory, or by the
next one at all when its directory is gone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from testkit.cluster import cgroups, credentials, network
from testkit.cluster.control_plane import ControlPlane, server_url
from testkit.cluster.network import NODES, Network
from testkit.cluster.node import Node, NodeSpec
from testkit.cluster.programs import kubernetes
from testkit.cluster.systemd import SystemdNode
from testkit.images import pause_image
from testkit.peers.processes import kill_all, processes_of, unmount_below, wait_until
from testkit.peers.programs import PeerFailed, environment
from testkit.peers.registry import Registry

TWO_NODES = (NodeSpec("system"), NodeSpec("2.4"))
_KUBECONFIG = "kubeconfig"
_Part = TypeVar("_Part")


def clean(directory: Path) -> None:
    """End the cluster in ``directory``, whoever started it, and remove all that it has. A no-op when there is none."""
    networks = [found for found, owner in network.existing().items() if owner == directory]

    def left() -> set[int]:
        return {*processes_of(directory), *(pid for found in networks for pid in cgroups.processes(found.cgroup))}

    kill_all(left, f"processes of {directory}", seconds=30)
    unmount_below(directory)
    for found in networks:
        cgroups.remove(found.cgroup)
        found.remove()
    if directory.exists():
        shutil.rmtree(directory)


def sweep() -> None:
    """Clean what clusters left whose directory is gone."""
    for owner in set(network.existing().values()):
        if not owner.exists():
            clean(owner)


def kubectl_command(directory: Path, *args: str) -> tuple[list[str], dict[str, str]]:
    """Words and environment of a kubectl that talks to the cluster in ``directory`` as its administrator."""
    env = {**environment(), "KUBECONFIG": str(directory / _KUBECONFIG), "KUBECACHEDIR": str(directory / "kubectl")}
    return [str(kubernetes("kubectl")), *args], env


class Cluster:
    """One cluster. A context manager; ``nodes`` are Ready on entry."""

    def __init__(self, directory: Path, nodes: Sequence[NodeSpec] = TWO_NODES) -> None:
        self.directory = directory.resolve()
        self._specs = tuple(nodes)
        self._hosts: dict[str, str] = {}
        self._network: Network | None = None
        self._credentials: credentials.Credentials | None = None
        self._control: ControlPlane | None = None
        self._registry: Registry | None = None
        self._pause = ""
        self.nodes: list[Node] = []

    @property
    def kubeconfig(self) -> Path:
        """Of the administrator."""
        return self.directory / _KUBECONFIG

    @property
    def address(self) -> str:
        """This machine as nodes and pods reach it; a Registry on it needs ``trust`` too."""
        return _started(self._network).address

    @property
    def registries(self) -> str:
        """The network of all registries on ``address``, which speak plain HTTP: for imagecache's settings."""
        return f"{self.address}/32"

    @property
    def control(self) -> ControlPlane:
        return _started(self._control)

    @property
    def credentials(self) -> credentials.Credentials:
        return _started(self._credentials)

    @property
    def registry(self) -> Registry:
        """A registry that every node can pull from; it has the pause image, which nodes have pulled already."""
        return _started(self._registry)

    # life

    def start(self) -> None:
        """Raises PeerFailed or MissingPeer, with nothing left behind."""
        sweep()
        clean(self.directory)
        self.directory.mkdir(parents=True)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        self._network = network.create(self.directory)
        self._registry = Registry(self.directory / "registry", host=self.address)
        self._credentials = credentials.create(self.directory / "credentials", self._network, server_url(self._network))
        shutil.copy(self._credentials.kubeconfig("admin"), self.kubeconfig)
        self._control = ControlPlane(self.directory / "control", self._network, self._credentials)
        self._start_registry()
        self.nodes = [self._make_node(index, spec) for index, spec in zip(NODES, self._specs, strict=False)]
        with ThreadPoolExecutor(len(self.nodes) + 1) as threads:
            # nodes first: containerd and the pause image take as long as the API server does
            booted = [threads.submit(node.boot) for node in self.nodes]
            threads.submit(self._control.start).result()
            for node, booting in zip(self.nodes, booted, strict=True):
                booting.result()
                node.join()
        self.wait_ready(*self.nodes)
        self._wait_account()

    def add_namespace(self, name: str, annotations: Mapping[str, str] | None = None) -> None:
        """One that pods can be created in."""
        metadata = {"name": name, "annotations": dict(annotations or {})}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self._wait_account(name)

    def _wait_account(self, namespace: str = "default") -> None:
        """No pod is admitted to a namespace before its default ServiceAccount is there."""
        words = ("get", "serviceaccount", "default", f"--namespace={namespace}")
        if not wait_until(lambda: self.try_kubectl(*words).returncode == 0, seconds=30, every=0.1):
            raise PeerFailed(f"no default ServiceAccount:\n{self.control.controller_manager.daemon.tail()}")

    def _start_registry(self) -> None:
        self.registry.start()
        self._pause = self.registry.push("pause:1", pause_image(self.directory / "images" / "pause"))
        self.trust(self.registry)

    def stop(self) -> None:
        """Nothing of it is left: process, mount, interface, cgroup, file."""
        try:
            clean(self.directory)
        finally:
            self._forget()

    def _forget(self) -> None:
        """This process's side of what has ended."""
        for node in self.nodes:
            node.forget()
        if self._control is not None:
            self._control.forget()
        if self._registry is not None:
            self._registry.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def trust(self, registry: Registry, host: str = "") -> None:
        """Let every node, also later ones, pull from a registry that listens on ``address``, perhaps as ``host``."""
        self._hosts[host or registry.address] = registry.url
        for node in self.nodes:
            node.add_host(host or registry.address, registry.url)

    # nodes

    def _make_node(self, index: int, spec: NodeSpec) -> Node:
        directory = self.directory / "nodes" / credentials.node_name(index)
        kind = SystemdNode if spec.systemd else Node
        node = kind(directory, index, spec, _started(self._network), _started(self._credentials))
        node.install(self._pause, self._hosts)
        return node

    def node(self, name: str) -> Node:
        """Raises KeyError."""
        return {node.name: node for node in self.nodes}[name]

    def add_node(self, spec: NodeSpec | None = None) -> Node:
        """One more node, Ready. Its number was never used before in this cluster."""
        used = {int(folder.name.rpartition("-")[2]) for folder in (self.directory / "nodes").iterdir()}
        node = self._make_node(max(used, default=0) + 1, spec or NodeSpec())
        self.nodes.append(node)
        node.start()
        self.wait_ready(node)
        return node

    def remove_node(self, node: Node) -> None:
        """Take a node away for good: machine and Node object. Its files stay until the cluster goes."""
        node.stop()
        self.nodes.remove(node)
        self.kubectl("delete", "node", node.name)

    def wait_ready(self, *nodes: Node, seconds: float = 120) -> None:
        """Until kubelet of each has reported Ready since its last start. Raises PeerFailed."""
        waiting = {node.name for node in nodes}

        def ready() -> bool:
            return waiting <= self.ready_nodes()

        if not wait_until(ready, seconds=seconds, every=0.3):
            tails = "\n".join(f"{node.name}: {node.kubelet.daemon.tail(20)}" for node in nodes)
            raise PeerFailed(f"not Ready: {sorted(waiting - self.ready_nodes())}\n{tails}")

    def ready_nodes(self) -> set[str]:
        """Names of nodes whose condition Ready is True."""
        listed = json.loads(self.kubectl("get", "nodes", "--output=json"))
        return {
            item["metadata"]["name"]
            for item in listed["items"]
            if any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", []))
        }

    # kubectl

    def kubectl(self, *args: str, stdin: str | None = None, seconds: float = 180) -> str:
        """Standard output. Raises PeerFailed with its messages."""
        done = self.try_kubectl(*args, stdin=stdin, seconds=seconds)
        if done.returncode:
            raise PeerFailed(f"kubectl {' '.join(args)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def try_kubectl(
        self, *args: str, stdin: str | None = None, seconds: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl, however it ends."""
        words, env = kubectl_command(self.directory, *args)
        return subprocess.run(
            words, env=env, input=stdin or "", capture_output=True, text=True, timeout=seconds, check=False
        )

    def apply(self, *documents: Mapping[str, object]) -> str:
        """``kubectl apply`` of these objects."""
        return self.kubectl("apply", "--filename=-", stdin="\n---\n".join(json.dumps(item) for item in documents))


def _started(part: _Part | None) -> _Part:
    if part is None:
        raise PeerFailed("the cluster was not started")
    return part
