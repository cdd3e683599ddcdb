"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler, in this machine's own namespaces.

The API server listens on the bridge only, so its port is the usual one however many clusters there are.
"""

from __future__ import annotations

import base64
import json
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testkit.cluster.component import Component
from testkit.cluster.credentials import Credentials
from testkit.cluster.network import Network
from testkit.cluster.programs import kubernetes
from testkit.peers.processes import Daemon
from testkit.peers.programs import environment
from testkit.peers.readiness import answers
from testkit.peers.registry import free_port

API_PORT = 6443
_CONTROLLER_MANAGER_PORT = 10257
_SCHEDULER_PORT = 10259


def server_url(network: Network) -> str:
    return f"https://{network.address}:{API_PORT}"


class ControlPlane:
    """The four programs, each a Component. ``start`` starts them in order."""

    def __init__(self, directory: Path, network: Network, credentials: Credentials) -> None:
        self._directory = directory
        self._network = network
        self._credentials = credentials
        directory.mkdir()
        self._etcd_url = f"http://127.0.0.1:{free_port()}"
        self.etcd = self._component("etcd", self._etcd_flags(), lambda: answers(f"{self._etcd_url}/health"))
        self.apiserver = self._component(
            "kube-apiserver", self._apiserver_flags(), lambda: self._healthy(API_PORT, "readyz")
        )
        self.controller_manager = self._component(
            "kube-controller-manager",
            self._controller_manager_flags(),
            lambda: self._healthy(_CONTROLLER_MANAGER_PORT),
        )
        self.scheduler = self._component(
            "kube-scheduler", self._scheduler_flags(), lambda: self._healthy(_SCHEDULER_PORT)
        )

    def _component(self, name: str, flags: dict[str, object], ready: Callable[[], bool]) -> Component:
        argv: list[str | Path] = [kubernetes(name), *(f"--{flag}={value}" for flag, value in flags.items())]
        return Component(Daemon(name, argv, self._directory, environment()), ready)

    @property
    def _components(self) -> tuple[Component, ...]:
        return self.etcd, self.apiserver, self.controller_manager, self.scheduler

    def start(self) -> None:
        for component in self._components:
            component.start()

    def forget(self) -> None:
        """Let go of what has ended. Idempotent."""
        for component in self._components:
            component.kill()

    def backdate(self, key: str, moment: str) -> None:
        """Let the custom resource at ``key`` have been created at ``moment``, RFC 3339.

        The API takes no creation time from anybody. So it is written where the API server keeps it, as the JSON of a
        custom resource (https://etcd.io/docs/latest/dev-guide/api_grpc_gateway/).
        """
        at = base64.b64encode(f"/registry/{key}".encode()).decode()
        found = self._ask_etcd("range", {"key": at})["kvs"][0]
        stored = json.loads(base64.b64decode(found["value"]))
        stored["metadata"]["creationTimestamp"] = moment
        self._ask_etcd("put", {"key": at, "value": base64.b64encode(json.dumps(stored).encode()).decode()})

    def _ask_etcd(self, verb: str, body: dict[str, str]) -> Any:
        url = f"{self._etcd_url}/v3/kv/{verb}"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=10) as answer:  # noqa: S310 - our own
            return json.load(answer)

    def _etcd_flags(self) -> dict[str, object]:
        peer = f"http://127.0.0.1:{free_port()}"
        return {
            "data-dir": self._directory / "etcd",
            "listen-client-urls": self._etcd_url,
            "advertise-client-urls": self._etcd_url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "unsafe-no-fsync": "true",  # nothing here outlives the machine
        }

    def _apiserver_flags(self) -> dict[str, object]:
        own = self._credentials
        return {
            "etcd-servers": self._etcd_url,
            "bind-address": self._network.address,
            "advertise-address": self._network.address,
            "secure-port": API_PORT,
            "tls-cert-file": own.certificate,
            "tls-private-key-file": own.key,
            "token-auth-file": own.tokens,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
            "service-cluster-ip-range": self._network.services,
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": own.service_accounts_key,
            "service-account-signing-key-file": own.service_accounts_key,
            "enable-aggregator-routing": "true",  # webhooks go to the pod: kube-proxy's rules are on nodes only
            "kubelet-preferred-address-types": "InternalIP",  # logs and exec would ask DNS for the node's name
        }

    def _controller_manager_flags(self) -> dict[str, object]:
        own = self._credentials
        return {
            "kubeconfig": own.kubeconfig("controller-manager"),
            "leader-elect": "false",
            "use-service-account-credentials": "true",
            "service-account-private-key-file": own.service_accounts_key,
            "root-ca-file": own.ca,
            "node-monitor-grace-period": "20s",  # a dead node is noticed in half of the default
            **self._serving(_CONTROLLER_MANAGER_PORT),
        }

    def _scheduler_flags(self) -> dict[str, object]:
        kubeconfig = self._credentials.kubeconfig("scheduler")
        return {"kubeconfig": kubeconfig, "leader-elect": "false", **self._serving(_SCHEDULER_PORT)}

    def _serving(self, port: int) -> dict[str, object]:
        """Flags of a component that serves nothing here but its health; the port is free, as the API server's is."""
        own = self._credentials
        return {
            "bind-address": self._network.address,
            "secure-port": port,
            "tls-cert-file": own.certificate,
            "tls-private-key-file": own.key,
        }

    def _healthy(self, port: int, path: str = "healthz") -> bool:
        trust = ssl.create_default_context(cafile=str(self._credentials.ca))
        return answers(f"https://{self._network.address}:{port}/{path}", trust)
