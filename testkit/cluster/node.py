"""A node: containerd, kubelet and kube-proxy in namespaces of their own, with a host's files where a host has them.

One process, ``init``, holds the network and mount namespace open. In there /etc, /opt, /usr/local and /var are overlays
that keep the node's changes to itself, /run is empty at boot, and containerd, kubelet and CNI have their standard
paths. Ending every process is a power cut: the mounts and interfaces go, the disk stays. What is mounted in one of
those paths is there once, as on a host, and not in the node's directory as well: runc reads the table of mounts several
times for each container.

Seen from this machine everything is below the node's directory, except what is mounted in it: use ``run`` for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from testkit.cluster import cgroups
from testkit.cluster.component import Component
from testkit.cluster.credentials import Credentials, node_name
from testkit.cluster.kubelet import PORT, PROXY_HEALTH_PORT, kubelet_config, proxy_config
from testkit.cluster.network import Network
from testkit.cluster.programs import kubernetes
from testkit.peers.containerd import Containerd, Version
from testkit.peers.containerd_config import Paths, Surroundings, write_hosts
from testkit.peers.cri import Cri
from testkit.peers.processes import Daemon, kill_all, processes_of, unmount_below
from testkit.peers.programs import PeerFailed, containerd_24, environment, find, run
from testkit.peers.readiness import accepts

_OVERLAYS = ("etc", "opt", "usr/local", "var")
_BOOT = """\
set -e
mount --make-rshared /
for name in {overlays}; do
  mount -t overlay overlay -o "lowerdir=/$name,upperdir={node}/fs/$name,workdir={node}/fs/.work/$name" "/$name"
done
bind() {{ mkdir -p "$1" "$2"; mount --bind "$1" "$2"; mount --make-private "$2"; mount --make-shared "$2"; }}
bind {node}/run /run
bind {node}/containerd /etc/containerd
bind {node}/containerd/cni /etc/cni/net.d
bind {node}/containerd/root /var/lib/containerd
bind {node}/containerd/state /run/containerd
bind {node}/containerd/opt /opt/containerd
bind {node}/kubelet /var/lib/kubelet
bind {node}/log /var/log
bind {node}/store /var/lib/imagecache
mkdir -p /run/lock /run/netns
echo 1 >/proc/sys/net/ipv4/ip_forward
"""
# A proc of its own, whole: pods with user namespaces mount theirs, which the kernel allows where no part of the
# present one is hidden or read-only, as it is in many containers (mount_too_revealing in fs/namespace.c).
_INIT = """\
mount -t proc proc /proc
: >{node}/booted
exec tail -f /dev/null {node}/booted
"""
_ENTER = """\
#!/bin/sh
# Run a program on the node: enter PROGRAM [ARGUMENT...]
pid=$(cat {node}/init.pid)
exec nsenter --target $pid {namespaces} -- "$@"
"""


class HostService(Protocol):
    """A program on nodes that Kubernetes knows nothing of, as systemd would run it."""

    def boot(self, node: Node) -> None:
        """Namespaces, files and network are there; containerd starts when this returns. At every boot."""

    def halt(self) -> None:
        """The node's processes have ended; let go of what is held for them."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """What differs between nodes."""

    version: Version = "system"
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Mapping[str, str]] = ()
    """Set when the node registers: ``key``, ``value``, ``effect``."""
    drop_ins: Sequence[str] = ()
    """TOML for containerd's conf.d, in order."""
    kubelet: Mapping[str, object] = field(default_factory=dict)
    """Fields of KubeletConfiguration that replace ours."""
    services: Sequence[HostService] = ()
    """Of this node alone; ordered before containerd."""
    systemd: bool = False
    """Run by systemd, as hosts are, instead of by the test (``systemd.SystemdNode``)."""


class Node:
    """One node; ``start`` boots it. Made by Cluster."""

    def __init__(self, directory: Path, index: int, spec: NodeSpec, network: Network, credentials: Credentials) -> None:
        self.directory = directory
        self.index = index
        self.name = node_name(index)
        self.spec = spec
        self.address = network.node(index)
        self.cgroup = f"{network.cgroup}/{self.name}"
        self._network = network
        self._credentials = credentials
        self.enter = directory / "enter"
        """A program that runs another one on the node."""
        self._lay_out()
        self._init = self._make_init()
        self.kubelet = self._make_kubelet()
        self.proxy = self._make_proxy()
        self._containerd: Containerd | None = None
        self._sandbox_image = ""

    @property
    def containerd(self) -> Containerd:
        """Raises PeerFailed before ``install``."""
        if self._containerd is None:
            raise PeerFailed(f"{self.name} has no containerd yet")
        return self._containerd

    @property
    def store(self) -> Path:
        """/var/lib/imagecache of the node."""
        return self.directory / "store"

    def _lay_out(self) -> None:
        for name in _OVERLAYS:
            (self.directory / "fs" / name).mkdir(parents=True)
            (self.directory / "fs" / ".work" / name).mkdir(parents=True)
        for name in ("run", "kubelet", "log", "store", "containerd/root", "containerd/state"):
            (self.directory / name).mkdir(parents=True)
        boot = _BOOT + self._init_script()
        (self.directory / "boot.sh").write_text(boot.format(node=self.directory, overlays=" ".join(_OVERLAYS)))
        self.enter.write_text(_ENTER.format(node=self.directory, namespaces=" ".join(self.NSENTER)))
        self.enter.chmod(0o755)

    def install(self, sandbox_image: str, hosts: Mapping[str, str]) -> None:
        """Configure containerd; ``hosts`` as for Containerd. Once, before the first ``start``."""
        self._sandbox_image = sandbox_image
        directory = self.directory / "containerd"
        # the socket's own name here is in the arguments of every shim, so that what a killed run left is found by it
        paths = Paths(
            root=Path("/var/lib/containerd"),
            state=Path("/run/containerd"),
            etc=Path("/etc/containerd"),
            cni=Path("/etc/cni/net.d"),
            opt=Path("/opt/containerd"),
            address=directory / "state" / "containerd.sock",
        )
        self._containerd = Containerd(
            directory,
            self.spec.version,
            sandbox_image=sandbox_image,
            drop_ins=self.spec.drop_ins,
            hosts=hosts,
            inside=Surroundings(self.daemon, paths, self._network.conflist(self.index)),
        )

    def add_host(self, host: str, url: str) -> None:
        """Let containerd pull from ``host`` through ``url``; at once."""
        write_hosts(self.directory / "containerd", host, url)

    @property
    def _volatile(self) -> tuple[Path, ...]:
        """A tmpfs, as on every machine: containerd syncs a database there whenever its mount manager is used."""
        return (self.directory / "run", self.directory / "containerd" / "state")

    # its programs

    def environ(self) -> dict[str, str]:
        """What programs of this node find on their PATH: its own containerd's tools first."""
        return environment(before=[containerd_24()] if self.spec.version == "2.4" else [])

    def daemon(self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Daemon:
        """A program for this node, not started; name a path below the node's directory in its arguments."""
        return Daemon(name, [self.enter, *argv], self.directory, env or self.environ())

    def run(self, *argv: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Output of a program run on the node. Raises PeerFailed."""
        return run([self.enter, *argv], env=env or self.environ())

    # its first process; ``systemd.SystemdNode`` has another one

    UNSHARE: ClassVar[Sequence[str]] = ("--net", "--mount")
    """Flags of unshare(1)."""
    NSENTER: ClassVar[Sequence[str]] = ("--net", "--mount")
    """Flags of nsenter(1), in a shell that has the pid of unshare as ``$pid``."""

    def _init_script(self) -> str:
        """What boot.sh does last: make the file ``booted``, and never end."""
        return _INIT

    def _make_init(self) -> Component:
        argv: list[str | Path] = [find("unshare"), *self.UNSHARE, "--propagation", "private", find("sh")]
        daemon = Daemon("init", [*argv, self.directory / "boot.sh"], self.directory, environment())
        return Component(daemon, self._has_booted)

    def _has_booted(self) -> bool:
        """The file is what boot.sh answers with, and no side effect: it has no socket to ask."""
        return (self.directory / "booted").exists()

    def _make_kubelet(self) -> Component:
        config = self.directory / "kubelet.json"
        config.write_text(kubelet_config(self.cgroup, self._network.address, self.spec.taints, self.spec.kubelet))
        argv: list[str | Path] = [
            kubernetes("kubelet"),
            f"--config={config}",
            f"--kubeconfig={self._credentials.kubeconfig(self.name)}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
            f"--node-labels={','.join(f'{key}={value}' for key, value in self.spec.labels.items())}",
        ]
        return Component(self.daemon("kubelet", argv), lambda: accepts((self.address, PORT)))

    def _make_proxy(self) -> Component:
        config = self.directory / "kube-proxy.json"
        config.write_text(proxy_config(str(self._credentials.kubeconfig("proxy")), self.name))
        argv: list[str | Path] = [kubernetes("kube-proxy"), f"--config={config}"]
        return Component(self.daemon("kube-proxy", argv), lambda: accepts((self.address, PROXY_HEALTH_PORT)))

    # life

    def start(self) -> None:
        """Needs the API server."""
        self.boot()
        self.join()

    def boot(self) -> None:
        """Namespaces, the caller's own programs, containerd with its pause image."""
        cgroups.create(self.cgroup)
        for folder in self._volatile:
            run([find("mount"), "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder])
        self._init.start()
        self._network.attach(self.index, self._init.daemon.pid, self.directory)
        for service in self.spec.services:
            service.boot(self)
        self.containerd.start()
        self._pull(self._sandbox_image)

    def join(self) -> None:
        """kubelet, which makes the Node object when there is none, and kube-proxy."""
        self.kubelet.start()
        self.proxy.start()

    def stop(self) -> None:
        """A power cut. What was in memory goes: processes, mounts, interfaces, /run; the disk stays."""
        kill_all(self._processes, f"processes of {self.name}")
        self.forget()
        self._network.detach(self.index)
        cgroups.remove(self.cgroup)
        (self.directory / "booted").unlink(missing_ok=True)
        for folder in self._volatile:
            unmount_below(folder)

    def forget(self) -> None:
        """Let go of what has ended: this process's side of its programs. Idempotent."""
        for component in (self._init, self.kubelet, self.proxy):
            component.kill()
        self.containerd.kill()
        for service in self.spec.services:
            service.halt()

    def restart(self) -> None:
        self.stop()
        self.start()

    def _processes(self) -> set[int]:
        """By their arguments, and containers that lost their shim by their cgroup."""
        return {*processes_of(self.directory), *cgroups.processes(self.cgroup)}

    def _pull(self, image: str) -> None:
        """Ahead of the first pod, so that pods start when the registry is stopped. Asks nobody when it is there."""

        async def pull() -> None:
            async with Cri(self.containerd.address) as cri:
                if await cri.image_status(image) is None:
                    await cri.pull(image)

        with ThreadPoolExecutor(1) as thread:  # the caller may be in an event loop of its own
            thread.submit(asyncio.run, pull()).result()
