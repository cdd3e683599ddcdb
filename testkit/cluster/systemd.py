"""A node that systemd runs, as hosts are: it boots as the first process, starts containerd, kubelet and kube-proxy.

It has processes of its own (a PID namespace) and the node's cgroup as the top of its own. It knows no unit of this
machine's distribution, which might change the machine itself: only the targets that every boot has, what is needed
here, and what is installed on the node. There is no journal; what services print is in files beside the node's others.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from testkit.cluster import cgroups
from testkit.cluster.node import Node
from testkit.peers.processes import Daemon, wait_until
from testkit.peers.programs import PeerFailed, find
from testkit.peers.readiness import accepts

_SYSTEMD = "/lib/systemd/systemd"
_UNITS = Path("etc/systemd/system")
_TARGETS = {
    "sysinit": "",
    "local-fs": "",
    "network": "Requires=network.service\nAfter=network.service\n",
    "sockets": "",
    "timers": "",
    "basic": "Wants=network.target sockets.target timers.target\nAfter=sysinit.target sockets.target\n",
    "multi-user": "Requires=basic.target\nAfter=basic.target\n",
    "shutdown": "",
}
_PLUGGED = """\
[Unit]
DefaultDependencies=no
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'until ip route show exact {services} | grep -q .; do sleep 0.05; done'
"""
_SERVICE = """\
[Unit]
After=network.target local-fs.target{after}
[Service]
Type={kind}
ExecStart={command}
{environment}
Restart=always
RestartSec=1
KillMode=process
Delegate=yes
LimitNOFILE=1048576
TasksMax=infinity
"""
"""As containerd's and kubelet's own units are: what they have started goes on without them."""
_LOG = """\
[Service]
StandardOutput=append:{node}/%p.log
StandardError=inherit
"""
"""For every service."""
_TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
"""What every kubelet sets (pkg/kubelet/cm, setupKernelTunables); here it cannot."""
_INIT = """\
mount -t proc proc /proc
{tunables}
# systemd would raise limits of the whole machine
mount --bind /proc/sys /proc/sys
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,ro /proc/sys
mount --bind /dev/null /dev/console
{own_cgroups}\
for group in {groups}; do mkdir -p "$group"; echo 0 >"$group/cgroup.procs"; done
# the last word: systemd 256 and 257 want to be asked before they run with v1
exec env -i PATH="$PATH" container=imagecache SYSTEMD_UNIT_PATH=/{units} SYSTEMD_LOG_TARGET=null \
  {systemd} --system --unit=multi-user.target SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1
"""
_OWN_CGROUPS = """\
# with v1, systemd adds hierarchies to what is mounted here, and makes it read-only
mkdir -p {{node}}/cgroup
mount --bind {{node}}/cgroup {{node}}/cgroup
mount --make-private {{node}}/cgroup
mkdir -p {{node}}/cgroup/new
mount -t tmpfs -o mode=755 tmpfs {{node}}/cgroup/new
for name in {names}; do
  mkdir {{node}}/cgroup/new/$name
  mount --bind /sys/fs/cgroup/$name {{node}}/cgroup/new/$name
done
umount --recursive /sys/fs/cgroup
mount --move {{node}}/cgroup/new /sys/fs/cgroup
umount {{node}}/cgroup
mount -o remount,ro /sys/fs/cgroup
"""


class SystemdNode(Node):
    """``NodeSpec(systemd=True)`` makes one. Its processes have other pids seen from this machine."""

    UNSHARE: ClassVar[Sequence[str]] = (*Node.UNSHARE, "--pid", "--fork", "--kill-child")
    NSENTER: ClassVar[Sequence[str]] = (*Node.NSENTER, "--pid=/proc/$pid/ns/pid_for_children")

    def systemctl(self, *words: str) -> str:
        """Its output. Raises PeerFailed."""
        return self.run(find("systemctl"), *words)

    def _init_script(self) -> str:
        units = self.directory / "fs" / _UNITS
        (units / "service.d").mkdir(parents=True)
        os.setxattr(units, "trusted.overlay.opaque", b"y")  # what is there on this machine is not there
        for name, more in _TARGETS.items():
            (units / f"{name}.target").write_text(f"[Unit]\nDefaultDependencies=no\n{more}")
        (units / "network.service").write_text(_PLUGGED.format(services=self._network.services))
        (units / "service.d" / "log.conf").write_text(_LOG.format(node=self.directory))
        tunables = [f"echo {value} >/proc/sys/{name}" for name, value in _TUNABLES.items()]
        roots = cgroups.hierarchies()
        names = " ".join(root.name for root in roots)
        leaf = "init.scope" if cgroups.is_unified() else ""  # with v2 no process may be where there are groups below
        return _INIT.format(
            tunables="\n".join(tunables),
            own_cgroups="" if cgroups.is_unified() else _OWN_CGROUPS.format(names=names),
            groups=" ".join(str(root / self.cgroup / leaf) for root in roots),
            units=_UNITS,
            systemd=_SYSTEMD,
        )

    def _has_booted(self) -> bool:
        return accepts(self.directory / "run/systemd/private")  # what systemctl connects to

    def daemon(self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Daemon:
        return Unit(self, name, argv, env or self.environ())

    def add_service(self, name: str, text: str) -> None:
        """From now on every boot starts it."""
        units = Path("/proc", str(self._init.daemon.pid), "root") / _UNITS  # as the node sees it
        (units / name).write_text(text)
        wanted = units / "multi-user.target.wants"
        wanted.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (wanted / name).symlink_to(f"../{name}")
        self.systemctl("daemon-reload")


class Unit(Daemon):
    """A service of a systemd: ``kill`` is a crash, after which systemd starts it again."""

    def __init__(self, node: SystemdNode, name: str, argv: Sequence[str | Path], env: Mapping[str, str]) -> None:
        super().__init__(name, argv, node.directory, env)
        self._node = node
        self._unit = f"{name}.service"

    @property
    def pid(self) -> int:
        """Seen from the node."""
        return int(self._node.systemctl("show", "--property=MainPID", "--value", self._unit))

    @property
    def running(self) -> bool:
        with contextlib.suppress(PeerFailed):
            return self._node.systemctl("is-active", self._unit).strip() == "active"
        return False

    def start(self, ready: Callable[[], bool], *, seconds: float = 30) -> None:
        notifies = self.name == "containerd"
        self._node.add_service(
            self._unit,
            _SERVICE.format(
                after="" if notifies else " containerd.service",
                kind="notify" if notifies else "simple",
                command=" ".join(map(_quoted, self._argv)),
                environment="\n".join(f"Environment={_quoted(f'{key}={value}')}" for key, value in self._env.items()),
            ),
        )
        self._node.systemctl("start", self._unit)
        if not wait_until(ready, seconds=seconds, every=0.05):
            raise PeerFailed(f"{self.name} was not ready in time; {self.log} ends with:\n{self.tail()}")

    def stop(self, *, seconds: float = 10) -> None:
        del seconds  # the unit has its own
        self._node.systemctl("stop", self._unit)

    def kill(self) -> None:
        with contextlib.suppress(PeerFailed, OSError):  # with its node it has ended, too, and so may have the files
            self._node.systemctl("kill", "--signal=SIGKILL", self._unit)


def _quoted(word: str) -> str:
    """systemd.syntax(7), "Quoting"; specifiers and variables stay as they are written."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
