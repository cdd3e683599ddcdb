"""Names of Services for pods: dnsmasq instead of CoreDNS, and a watch that tells it of each Service.

Every node's kubelet names the cluster's address as its DNS server; it answers while this runs.
"""

from __future__ import annotations

from pathlib import Path

from testkit.cluster.cluster import Cluster, kubectl_command
from testkit.peers.processes import Daemon, end_processes
from testkit.peers.programs import environment, find
from testkit.peers.readiness import resolves

DOMAIN = "cluster.local"
_FIRST = f"kubernetes.default.svc.{DOMAIN}"
"""Every cluster has this Service."""
_WATCH = """\
while :; do
  "$@" | while read -r namespace name address; do
    echo "$address $name.$namespace.svc.{domain} $name.$namespace.svc $name.$namespace" >"{hosts}/$namespace.$name"
  done
  sleep 1
done
"""
_FIELDS = '{.metadata.namespace} {.metadata.name} {.spec.clusterIP}{"\\n"}'


class Names:
    """Between ``start`` and ``stop``."""

    def __init__(self, cluster: Cluster) -> None:
        self._address = cluster.address
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

        script = self._directory / "watch.sh"
        script.write_text(_WATCH.format(domain=DOMAIN, hosts=self._hosts))
        words, env = kubectl_command(cluster.directory, "get", "services", "--all-namespaces", "--watch")
        self._watch = Daemon(
            "names", [find("sh"), script, *words, f"--output=jsonpath={_FIELDS}"], self._directory, env
        )

    def start(self) -> None:
        """Raises PeerFailed."""
        self._daemon.start(lambda: resolves(self._address, _FIRST) is not None)
        self._watch.start(lambda: bool(resolves(self._address, _FIRST)))

    def stop(self) -> None:
        end_processes(self._directory)
        self._watch.stop()
        self._daemon.stop()
