"""Names of Services for pods: dnsmasq instead of CoreDNS, told each name by the caller.

Every node's kubelet names the cluster's address as its DNS server; it answers while this runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from imagecache.testing.cluster.cluster import Cluster
from imagecache.testing.peers.processes import Daemon, wait_until
from imagecache.testing.peers.programs import PeerFailed, environment, find

DOMAIN = "cluster.local"


class Names:
    """A context manager."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._directory = cluster.directory / "dns"
        self._hosts = self._directory / "hosts"
        self._hosts.mkdir(parents=True)
        argv: list[str | Path] = [
            find("dnsmasq"),
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--user=root",
            "--pid-file=",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            f"--listen-address={cluster.address}",
            f"--hostsdir={self._hosts}",
            f"--local=/{DOMAIN}/",
            f"--log-facility={self._directory / 'queries.log'}",
        ]
        self._daemon = Daemon("dns", argv, self._directory, environment())

    def __enter__(self) -> Self:
        self._daemon.start((self._directory / "queries.log").exists)
        return self

    def __exit__(self, *_: object) -> None:
        self._daemon.stop()

    def add_service(self, name: str, namespace: str) -> None:
        """Let pods find a Service that is there. Raises PeerFailed."""
        found: list[str] = []

        def addressed() -> bool:
            words = ["get", f"service/{name}", f"--namespace={namespace}", "--output=jsonpath={.spec.clusterIP}"]
            found[:] = [self._cluster.try_kubectl(*words).stdout.strip()]
            return bool(found[0])

        if not wait_until(addressed, seconds=30, every=0.2):
            raise PeerFailed(f"there is no Service {namespace}/{name}")
        names = f"{name}.{namespace}.svc.{DOMAIN} {name}.{namespace}.svc {name}.{namespace}"
        (self._hosts / f"{namespace}.{name}").write_text(f"{found[0]} {names}\n")
