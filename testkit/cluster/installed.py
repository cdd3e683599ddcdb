"""A cluster with imagecache on it: definitions, roles and policies of ``config/``, controllers, an agent on every node.

What the demo, the end-to-end tests and the bench stand on. The controllers run on this machine and the agents as host
services of their nodes; the roles are those of an installation.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Self

import yaml

from imagecache.api.types import GROUP
from imagecache.api.yamltext import JSON
from imagecache.kube.objects import at, text
from imagecache.match import keys
from testkit.cluster.accounts import create_account, identity
from testkit.cluster.agent import AgentHost
from testkit.cluster.cluster import Cluster
from testkit.cluster.controller import ControllerHost
from testkit.cluster.node import Node, NodeSpec
from testkit.cluster.pods import PodSpec
from testkit.peers.containerd import Version
from testkit.peers.node import Mode
from testkit.peers.processes import wait_until
from testkit.peers.programs import PeerFailed

CONFIG = Path(__file__).resolve().parents[2] / "config"
AGENT = "imagecache-agent"
KIND = "imagecaches.eci.alibabacloud.com"
CACHES = "/apis/eci.alibabacloud.com/v1/imagecaches"
REPORTS = "nodeimagecaches.imagecache.dev"
THREE_NODES: Sequence[tuple[Version, Mode]] = (("system", "proxy"), ("2.4", "proxy"), ("2.4", "native"))
TWO_NODES = THREE_NODES[:2]
_PARTS = ("crd", *(f"base/{part}.yaml" for part in ("namespace", "rbac", "admission", "authors", "pins")))
FINAL = ("Ready", "Failed", "UpdateFailed")


@dataclass
class Installed:
    """A context manager: on entry the nodes are Ready, the controller leads, and every agent reports."""

    directory: Path
    nodes: Sequence[tuple[Version, Mode]] = TWO_NODES
    settings: Mapping[str, str] = field(default_factory=dict)
    """``IMAGECACHE_...`` variables for the controller and all agents."""

    def __post_init__(self) -> None:
        self.agents = [AgentHost(mode) for _, mode in self.nodes]
        self.cluster = Cluster(
            self.directory,
            [NodeSpec(version, services=[agent]) for (version, _), agent in zip(self.nodes, self.agents, strict=True)],
        )
        self._controller: ControllerHost | None = None

    @property
    def controller(self) -> ControllerHost:
        if self._controller is None:
            raise PeerFailed("the cluster was not started")
        return self._controller

    def start(self) -> None:
        self.cluster.start()
        try:
            self._install()
        except BaseException:
            self.stop()
            raise

    def _install(self) -> None:
        create_account(self.cluster, AGENT)
        for part in _PARTS:
            self.cluster.kubectl("apply", "--filename", str(CONFIG / part))
        self.cluster.kubectl("wait", "--for=condition=Established", f"crd/{KIND}", f"crd/{REPORTS}")
        self._controller = ControllerHost(self.cluster, settings=self.settings)
        self._controller.start()
        for agent in self.agents:
            self.configure(agent)
        self._controller.wait_leading()
        self.wait_reports()
        self.wait_gate()

    def wait_gate(self) -> None:
        """Until pods that pin get their gate: a policy takes effect a moment after it is made. Raises PeerFailed."""
        document = json.dumps(PodSpec("asked", "image", annotations={keys.PIN: "none"}).document())
        words = ("create", "--dry-run=server", "--filename=-", "--output=jsonpath={.spec.schedulingGates[*].name}")

        def given() -> bool:
            return self.cluster.try_kubectl(*words, stdin=document).stdout == keys.GATE

        if not wait_until(given, seconds=60, every=0.2):
            raise PeerFailed("pods that pin a cache get no gate")

    def configure(self, agent: AgentHost) -> None:
        """Tell a node's agent what cluster it is in, as the installer does."""
        own = identity(self.cluster, AGENT, node=agent.node)
        agent.settings = {
            "IMAGECACHE_NODE_NAME": agent.node.name,
            "IMAGECACHE_KUBECONFIG": str(own.kubeconfig),
            "IMAGECACHE_STORE_URL": self.controller.store_url,
            "IMAGECACHE_STORE_TOKEN": str(own.store_token),
            "IMAGECACHE_STORE_CA": str(own.ca),
            **self.settings,
        }
        agent.restart()

    def add_node(
        self,
        version: Version = "2.4",
        mode: Mode = "proxy",
        drop_ins: Sequence[str] = (),
        kubelet: Mapping[str, object] | None = None,
    ) -> AgentHost:
        """A node that joins later, with its agent; ``drop_ins`` and ``kubelet`` as in NodeSpec."""
        agent = AgentHost(mode)
        self.cluster.add_node(NodeSpec(version, drop_ins=drop_ins, kubelet=kubelet or {}, services=[agent]))
        self.agents.append(agent)
        self.configure(agent)
        return agent

    def remove_node(self, agent: AgentHost) -> None:
        """A node that leaves for good."""
        self.cluster.remove_node(agent.node)
        self.agents.remove(agent)

    def ask_store(self, path: str, token: str) -> int:
        """HTTP status of the served store's answer to this bearer token."""
        trust = ssl.create_default_context(cafile=str(self.cluster.credentials.ca))
        address = self.controller.store_url.removeprefix("https://")
        connection = http.client.HTTPSConnection(address, timeout=10, context=trust)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            return connection.getresponse().status
        finally:
            connection.close()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
        self.cluster.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def agent(self, node: Node) -> AgentHost:
        """Raises KeyError."""
        return {agent.node.name: agent for agent in self.agents}[node.name]

    # image caches

    def manifest(
        self, name: str, images: Sequence[str], annotations: Mapping[str, str] | None = None, **spec: JSON
    ) -> dict[str, object]:
        return {
            "apiVersion": "eci.alibabacloud.com/v1",
            "kind": "ImageCache",
            "metadata": {"name": name, "annotations": dict(annotations or {})},
            "spec": {"images": list(images), **spec},
        }

    def create(
        self, name: str, images: Sequence[str], annotations: Mapping[str, str] | None = None, **spec: JSON
    ) -> None:
        """As strict as kubectl, which would take a quarter of a processor's second. Raises PeerFailed."""
        document = self.manifest(name, images, annotations, **spec)
        status, answer = self.ask("POST", f"{CACHES}?fieldValidation=Strict", document)
        if status != HTTPStatus.CREATED:
            raise PeerFailed(f"the API server answers {status} to the ImageCache {name}: {answer}")

    def get(self, name: str) -> dict[str, JSON]:
        """The ImageCache as the API has it. Raises PeerFailed when there is none."""
        found = self.read(f"{CACHES}/{name}")
        if found is None:
            raise PeerFailed(f"there is no ImageCache {name}")
        return found

    def exists(self, name: str) -> bool:
        return self.read(f"{CACHES}/{name}") is not None

    def read(self, path: str) -> dict[str, JSON] | None:
        """An object of the API; None when there is none. Cheaper than kubectl for what is asked again and again."""
        status, answer = self.ask("GET", path)
        if status == HTTPStatus.NOT_FOUND:
            return None
        if status != HTTPStatus.OK:
            raise PeerFailed(f"the API server answers {status} to {path}: {answer}")
        found: dict[str, JSON] = json.loads(answer)
        return found

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content: str = "application/json",
        user: str = "",
        over: http.client.HTTPSConnection | None = None,
    ) -> tuple[int, str]:
        """Status and text of the API server's answer to the administrator, who takes the place of ``user``.

        ``over``: what ``connected`` gives, for who asks a thousand times; else a connection of its own.
        """
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content}
        if user:
            headers["Impersonate-User"] = user
        with nullcontext(over) if over is not None else self.connected() as connection:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")

    @contextmanager
    def connected(self) -> Iterator[http.client.HTTPSConnection]:
        trust = ssl.create_default_context(cafile=str(self.cluster.credentials.ca))
        address = self.cluster.credentials.server.removeprefix("https://")
        connection = http.client.HTTPSConnection(address, timeout=30, context=trust)
        try:
            yield connection
        finally:
            connection.close()

    @cached_property
    def _token(self) -> str:
        """Of the administrator. To read it takes longer than most requests."""
        token: str = yaml.safe_load(self.cluster.kubeconfig.read_text())["users"][0]["user"]["token"]
        return token

    def phase(self, name: str) -> str:
        return text(self.get(name), "status", "phase")

    def counts(self, name: str) -> tuple[int, int, int]:
        """Nodes: desired, ready, failed."""
        nodes = at(self.get(name), "status", "nodes")
        numbers = nodes if isinstance(nodes, dict) else {}
        return tuple(int(str(numbers.get(key, 0))) for key in ("desired", "ready", "failed"))  # type: ignore[return-value]

    def wait_phase(self, name: str, *phases: str, seconds: float = 120) -> dict[str, JSON]:
        """The object once it is in one of these phases. Raises PeerFailed with the whole object."""
        if not wait_until(lambda: self.phase(name) in phases, seconds=seconds, every=0.1):
            raise PeerFailed(f"{name} is not {phases} after {seconds} s: {json.dumps(self.get(name), indent=1)}")
        return self.get(name)

    def wait_ready(self, name: str, *, seconds: float = 120) -> dict[str, JSON]:
        """Ready, and on every node that should have it. Raises PeerFailed."""
        found = self.wait_phase(name, *FINAL, seconds=seconds)
        if text(found, "status", "phase") != "Ready":
            raise PeerFailed(f"{name}: {text(found, 'status', 'reason')}")
        self.wait_nodes(name, seconds=seconds)
        return self.get(name)

    def wait_nodes(self, name: str, desired: int | None = None, *, seconds: float = 120) -> None:
        """Until the cache is ready on all of its nodes (on ``desired`` ones). Raises PeerFailed with their reports."""

        def everywhere() -> bool:
            wanted, ready, _ = self.counts(name)
            return wanted == ready == (len(self.cluster.nodes) if desired is None else desired)

        if not wait_until(everywhere, seconds=seconds, every=0.1):
            reports = json.dumps([self.report(node) for node in self.cluster.nodes], indent=1)
            raise PeerFailed(f"{name} is on {self.counts(name)} (desired, ready, failed) nodes: {reports}")

    def unused_since(self, name: str, moment: str) -> None:
        """As if the cache had been ready since that time, and a pod been matched with it then. Raises PeerFailed."""
        self._say(name, {"lastMatchedTime": moment, "conditions": self._conditions(name, moment)})

    def backdate(self, name: str, moment: str, **status: JSON) -> None:
        """As if the cache had been made at that time and been as it is since then, with that in its status.

        Who controls it must be off. Raises PeerFailed.
        """
        self.cluster.control.backdate(f"{GROUP}/imagecaches/{name}", moment)
        self._say(name, {"startTime": moment, "conditions": self._conditions(name, moment), **status})

    def _conditions(self, name: str, moment: str) -> list[JSON]:
        """Its conditions, true or false since that time."""
        found = at(self.get(name), "status", "conditions")
        conditions = found if isinstance(found, list) else []
        return [{**each, "lastTransitionTime": moment} for each in conditions if isinstance(each, dict)]

    def _say(self, name: str, status: dict[str, JSON]) -> None:
        """In its status, beside what is there."""
        path, body = f"{CACHES}/{name}/status", {"status": status}
        code, answer = self.ask("PATCH", path, body, content="application/merge-patch+json")
        if code != HTTPStatus.OK:
            raise PeerFailed(f"the API server answers {code} to a status of {name}: {answer}")

    def delete(self, *names: str) -> str:
        """Output of kubectl, which returns when the objects are gone."""
        return self.cluster.kubectl("delete", *(f"{KIND}/{name}" for name in names), "--timeout=60s")

    def delete_all(self) -> None:
        """Returns when they are gone. Raises PeerFailed."""
        status, answer = self.ask("DELETE", CACHES)
        if status != HTTPStatus.OK:
            raise PeerFailed(f"the API server answers {status} to the removal of all ImageCaches: {answer}")
        if not wait_until(lambda: not at(self.read(CACHES), "items"), seconds=120, every=0.1):
            raise PeerFailed(f"ImageCaches stay: {json.dumps(at(self.read(CACHES), 'items'), indent=1)}")

    # nodes

    def report(self, node: Node) -> dict[str, JSON]:
        """Status of the node's NodeImageCache; empty when there is none."""
        found = at(self.read(f"/apis/imagecache.dev/v1/nodeimagecaches/{node.name}"), "status")
        return found if isinstance(found, dict) else {}

    def states(self, node: Node) -> dict[str, dict[str, JSON]]:
        """By the name of the cache, what the node says of it."""
        caches = self.report(node).get("caches")
        entries = [entry for entry in caches if isinstance(entry, dict)] if isinstance(caches, list) else []
        return {text(entry, "name"): entry for entry in entries}

    def wait_reports(self, seconds: float = 60) -> None:
        """Until the agent of every node has reported. Raises PeerFailed."""
        for node in self.cluster.nodes:
            if not wait_until(lambda node=node: bool(self.report(node)), seconds=seconds, every=0.2):  # type: ignore[misc]
                raise PeerFailed(f"the agent of {node.name} does not report: {self.agent(node).daemon.tail(20)}")

    def wait_state(self, node: Node, name: str, state: str, *, seconds: float = 60) -> dict[str, JSON]:
        """What the node says of a cache, once it says ``state``. Raises PeerFailed."""
        if not wait_until(lambda: text(self.states(node).get(name), "state") == state, seconds=seconds, every=0.2):
            raise PeerFailed(f"{name} on {node.name} is not {state}: {json.dumps(self.report(node), indent=1)}")
        return self.states(node)[name]
