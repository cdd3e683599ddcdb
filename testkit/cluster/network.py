"""The cluster's network: a bridge of this machine with a /16 of its own, a veth for each node, a /24 for its pods.

::

    10.N.0.1        the bridge: API server, registries          10.N.I.0/24     pods of node I, routed by the node
    10.N.0.10+I     node I                                      10.N.128.0/20   Services, kube-proxy on every node

Nothing is forwarded by this machine and none of its settings changes; a node has no route to anywhere else. Whose a
bridge is, its alias says: the directory of the cluster. N is free when the bridge could be made.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from testkit.peers.programs import PeerFailed, find, run

NODES = range(1, 33)
"""Numbers that nodes can have; every node knows the routes to all of them."""
_NUMBERS = range(201, 251)
_PREFIX = "icbr"
_LINKS = Path("/sys/class/net")
_CONFLIST = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {"type": "ptp", "ipam": {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


class _Link(TypedDict, total=False):
    ifname: str
    ifalias: str


def _ip(*words: str) -> str:
    return run([find("ip"), *words])


def _batch(script: Path, lines: Sequence[str], *, prefix: Sequence[str | Path] = ()) -> None:
    """In one process, up to the first line that fails."""
    script.write_text("\n".join(lines) + "\n")
    run([*prefix, find("ip"), "-batch", script])


@dataclass(frozen=True, slots=True)
class Network:
    """One cluster's addresses, and the interfaces on this machine's side."""

    number: int

    @property
    def bridge(self) -> str:
        return f"{_PREFIX}{self.number}"

    @property
    def address(self) -> str:
        """This machine, as the nodes and pods reach it."""
        return f"10.{self.number}.0.1"

    @property
    def services(self) -> str:
        return f"10.{self.number}.128.0/20"

    @property
    def api_service(self) -> str:
        """ClusterIP of the Service ``kubernetes``: the first of the range."""
        return f"10.{self.number}.128.1"

    @property
    def cgroup(self) -> str:
        """Relative path of the cgroups of all nodes."""
        return f"imagecache-cluster-{self.number}"

    def node(self, index: int) -> str:
        return f"10.{self.number}.0.{10 + index}"

    def pods(self, index: int) -> str:
        return f"10.{self.number}.{index}.0/24"

    def conflist(self, index: int) -> str:
        """CNI configuration of one node: pods are routed, so that kube-proxy of the node sees their traffic."""
        document = json.loads(json.dumps(_CONFLIST))
        document["plugins"][0]["ipam"]["ranges"] = [[{"subnet": self.pods(index)}]]
        return json.dumps(document, indent=2)

    def _veth(self, index: int) -> str:
        return f"ic{self.number}-{index}"

    def make_bridge(self, directory: Path) -> None:
        """Whose it is, is said in the same breath: a bridge without an owner would stay for ever. Raises PeerFailed."""
        lines = [
            f"link add {self.bridge} type bridge",
            f"link set {self.bridge} alias {directory} up",
            f"address add {self.address}/24 dev {self.bridge}",
        ]
        _batch(directory / "network.ip", lines)

    def attach(self, index: int, pid: int, directory: Path) -> None:
        """Give the network namespace of ``pid`` its eth0 and its routes."""
        veth = self._veth(index)
        _ip("link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _ip("link", "set", veth, "master", self.bridge, "up")
        _ip("route", "replace", self.pods(index), "via", self.node(index), "dev", self.bridge)
        lines = ["link set lo up", f"address add {self.node(index)}/24 dev eth0", "link set eth0 up"]
        lines += [f"route add {self.pods(other)} via {self.node(other)}" for other in NODES if other != index]
        lines.append(
            f"route add {self.services} dev eth0"
        )  # what the node itself sends, before kube-proxy's rules see it
        _batch(directory / "network.ip", lines, prefix=[find("nsenter"), "--target", str(pid), "--net"])

    def detach(self, index: int) -> None:
        """At once: connections that are being closed keep the ended node's namespace. A no-op when there is none."""
        _delete(self._veth(index))

    def remove(self) -> None:
        """The nodes' ends first: what they belong to, the bridge says."""
        for veth in _LINKS.glob(f"ic{self.number}-*"):
            _delete(veth.name)
        _delete(self.bridge)


def _delete(link: str) -> None:
    """A no-op when there is none, or when the kernel was faster: an interface goes with its namespace."""
    try:
        _ip("link", "delete", link)
    except PeerFailed:
        if (_LINKS / link).exists():
            raise


def create(directory: Path) -> Network:
    """Make the bridge of the cluster in ``directory``, with the first number that is free. Raises PeerFailed."""
    routed = _routed()
    for number in _NUMBERS:
        network = Network(number)
        if any(ipaddress.ip_network(f"10.{number}.0.0/16").overlaps(other) for other in routed):
            continue
        with contextlib.suppress(PeerFailed):  # another cluster took it in between
            network.make_bridge(directory)
            return network
    raise PeerFailed(f"no free network in 10.{_NUMBERS[0]}.0.0 to 10.{_NUMBERS[-1]}.0.0")


def _routed() -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    routes: list[dict[str, str]] = json.loads(_ip("-json", "-4", "route", "show", "table", "all"))
    return [ipaddress.ip_network(route["dst"], strict=False) for route in routes if route["dst"][0].isdigit()]


def existing() -> dict[Network, Path]:
    """The networks of all clusters on this machine, with their directories."""
    links: list[_Link] = json.loads(_ip("-json", "-details", "link", "show", "type", "bridge"))
    found = {}
    for link in links:
        name, alias = link.get("ifname", ""), link.get("ifalias", "")
        if name.startswith(_PREFIX) and alias:
            found[Network(int(name.removeprefix(_PREFIX)))] = Path(alias)
    return found
