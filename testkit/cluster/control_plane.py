"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler, in this machine's own namespaces.

The API server listens on the bridge only, so its port is the usual one however many clusters there are.
"""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from testkit.cluster.component import Component
from testkit.cluster.credentials import Credentials
from testkit.cluster.network import Network
from testkit.cluster.programs import kubernetes
from testkit.peers.processes import Daemon, wait_until
from testkit.peers.programs import PeerFailed, environment
from testkit.peers.registry import free_port

API_PORT = 6443
_SETTLED = 0.5
"""Seconds that a daemon without a port of its own must have lived to count as started."""


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
        self.etcd = self._component("etcd", self._etcd_flags(), self._etcd_ready)
        self.apiserver = self._component("kube-apiserver", self._apiserver_flags(), self._apiserver_ready)
        self.controller_manager = self._component("kube-controller-manager", self._controller_manager_flags())
        self.scheduler = self._component("kube-scheduler", self._scheduler_flags())

    def _component(self, name: str, flags: dict[str, object], ready: Callable[[], bool] | None = None) -> Component:
        argv: list[str | Path] = [kubernetes(name), *(f"--{flag}={value}" for flag, value in flags.items())]
        daemon = Daemon(name, argv, self._directory, environment())
        return Component(daemon, ready or (lambda: _settled(daemon)))

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
            "secure-port": 0,
            "use-service-account-credentials": "true",
            "service-account-private-key-file": own.service_accounts_key,
            "root-ca-file": own.ca,
            "node-monitor-grace-period": "20s",  # a dead node is noticed in half of the default
        }

    def _scheduler_flags(self) -> dict[str, object]:
        return {"kubeconfig": self._credentials.kubeconfig("scheduler"), "leader-elect": "false", "secure-port": 0}

    def _etcd_ready(self) -> bool:
        return _answers(f"{self._etcd_url}/health", None)

    def _apiserver_ready(self) -> bool:
        trust = ssl.create_default_context(cafile=str(self._credentials.ca))
        return _answers(f"{self._credentials.server}/readyz", trust)


def _answers(url: str, trust: ssl.SSLContext | None) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5, context=trust) as answer:  # noqa: S310 - our own http(s) URL
            return bool(answer.status == http.HTTPStatus.OK)
    except (OSError, urllib.error.URLError, http.client.HTTPException):
        return False


def _settled(daemon: Daemon) -> bool:
    """For programs that serve nothing: bad flags or credentials end them at once."""
    if wait_until(lambda: not daemon.running, seconds=_SETTLED, every=0.05):
        raise PeerFailed(f"{daemon.name} ended; {daemon.log} ends with:\n{daemon.tail()}")
    return True
