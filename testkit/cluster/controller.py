"""``imagecache controller`` on this machine, for the cluster: as its ServiceAccount, serving the store to the nodes.

Several may run with one store: one leads. Its rights (RBAC) and the resource definitions are the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from testkit.cluster import credentials
from testkit.cluster.accounts import NAMESPACE, create_account, identity
from testkit.cluster.cluster import Cluster
from testkit.cluster.component import Component
from testkit.peers.agent import COMMAND
from testkit.peers.processes import Daemon, wait_until
from testkit.peers.programs import PeerFailed, environment
from testkit.peers.readiness import answers
from testkit.peers.registry import free_port

ACCOUNT = "imagecache-controller"


class ControllerHost:
    """One controller. A context manager; ``start`` returns when it lives, ``wait_leading`` when it leads."""

    def __init__(self, cluster: Cluster, name: str = "controller", settings: Mapping[str, str] | None = None) -> None:
        self.settings = dict(settings or {})
        """``IMAGECACHE_...`` variables that win over ours; new ones at the next start."""
        self._cluster = cluster
        self._directory = cluster.directory / name
        self._directory.mkdir(exist_ok=True)
        self._metrics = f"127.0.0.1:{free_port()}"
        self._address = f"{cluster.address}:{free_port(cluster.address)}"
        self._pair = credentials.issue(cluster.credentials, name, [cluster.address])
        self._component: Component | None = None
        self._logged = 0

    @property
    def store(self) -> Path:
        """Of every controller of this cluster."""
        return Path(self.environ()["IMAGECACHE_STORE"])

    @property
    def store_url(self) -> str:
        """Where the nodes reach the store while this one leads."""
        return f"https://{self._address}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self._metrics}"

    def environ(self) -> dict[str, str]:
        own = {
            "IMAGECACHE_STORE": str(self._cluster.directory / "controller-store"),
            "IMAGECACHE_LEASE_NAMESPACE": NAMESPACE,
            "IMAGECACHE_SERVE_ADDRESS": self._address,
            "IMAGECACHE_SERVE_CERTIFICATE": str(self._pair.certificate),
            "IMAGECACHE_SERVE_KEY": str(self._pair.key),
            "IMAGECACHE_METRICS_ADDRESS": self._metrics,
            "IMAGECACHE_INSECURE_REGISTRIES": self._cluster.registries,
        }
        return {**environment(), **own, **self.settings}

    @property
    def daemon(self) -> Daemon:
        return self._started().daemon

    @property
    def running(self) -> bool:
        return self._component is not None and self._component.running

    def _started(self) -> Component:
        if self._component is None:
            raise PeerFailed("the controller was not started")
        return self._component

    def start(self) -> None:
        """Raises PeerFailed with the end of its log."""
        create_account(self._cluster, ACCOUNT)
        own = identity(self._cluster, ACCOUNT)
        # a path of the cluster's is in the arguments, so that what a killed run left is found by it
        argv: list[str | Path] = [COMMAND, "controller", "--kubeconfig", own.kubeconfig]
        daemon = Daemon("controller", argv, self._directory, self.environ())
        self._logged = daemon.log.stat().st_size if daemon.log.exists() else 0
        self._component = Component(daemon, lambda: answers(f"{self.metrics_url}/livez"))
        self._component.start()

    @property
    def leads(self) -> bool:
        """Since its last start. Raises PeerFailed when it ended by itself."""
        if not self.running:
            raise PeerFailed(f"the controller ended; its log ends with:\n{self.daemon.tail()}")
        return b"controller is running" in self.daemon.log.read_bytes()[self._logged :]

    def wait_leading(self, seconds: float = 60) -> None:
        """After the one before was killed, its lease has to run out first. Raises PeerFailed."""
        if not wait_until(lambda: self.leads, seconds=seconds, every=0.05):
            raise PeerFailed(f"the controller does not lead; its log ends with:\n{self.daemon.tail()}")

    def stop(self) -> None:
        if self._component is not None:
            self._component.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        self._started().kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
