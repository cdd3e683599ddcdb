"""The chart in proxy mode on nodes that systemd runs: nobody but the DaemonSet and systemd does anything on them.

README's line as it stands; then crashes, a power cut, an upgrade, nodes that are selected no more, and an uninstall,
always with pods running that stand on the cache.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from imagecache.host.pod_directory import KEEPER
from imagecache.host.systemd_units import USER_NAMESPACE
from testkit.cluster.accounts import NAMESPACE
from testkit.cluster.chart import ChartSite
from testkit.cluster.cluster import Cluster
from testkit.cluster.installed import KIND
from testkit.cluster.node import NodeSpec
from testkit.cluster.pods import PodSpec, messages, run_pods
from testkit.cluster.systemd import SystemdNode
from testkit.images import busybox_image, tar_of
from testkit.peers.containerd import VERSIONS
from testkit.peers.processes import mounts_below, processes_of, wait_until
from testkit.peers.registry import Registry
from testkit.peers.workspace import workspace

AGENT, CONTAINERD = "imagecache-agent.service", "containerd.service"
CONFIG = "/etc/imagecache/config.toml"
PROGRAM = "/opt/imagecache/current/bin/imagecache"
CACHE = f"{KIND}/app"
POD, PLANTED = "/run/imagecache/pod", "/etc/passwd"
STATUS = f"cat /proc/$(systemctl show --property=MainPID --value {AGENT})/status"
CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 21)
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SYS_ADMIN (<linux/capability.h>)."""
_HOG = """\
group=/sys/fs/cgroup$(systemctl show --property=ControlGroup --value "$1")
test ! -d /sys/fs/cgroup/memory || group=/sys/fs/cgroup/memory${group#/sys/fs/cgroup}
sh -c 'echo 1000 >/proc/self/oom_score_adj; echo $$ >"$1/cgroup.procs"; exec tail /dev/zero' sh "$group" 2>&1
kill -l $?
"""
"""What reads a layer, as far as the kernel can tell: of the unit's cgroup, with the score of a worker."""
pytestmark = pytest.mark.timeout(900)


@dataclass
class Site(ChartSite):
    """A node for each containerd, a registry, and an image in it."""

    registry: Registry
    image: str = ""
    nodes: Sequence[SystemdNode] = field(default_factory=list)

    def run(self, name: str, *, pull_policy: str = "IfNotPresent") -> None:
        """A pod on each node."""
        run_pods(
            self.cluster,
            *(
                PodSpec(f"{name}-{node.name}", self.image, node=node.name, pull_policy=pull_policy)
                for node in self.nodes
            ),
        )

    def reads(self) -> bool:
        """The first pods do. Right after a restart of containerd kubelet has no connection to it."""
        words = [("exec", f"app-{node.name}", "--", "cat", "/srv/0") for node in self.nodes]
        return all(self.cluster.try_kubectl(*each).stdout == "app\n" for each in words)

    def wait_agents(self) -> None:
        self.rolled_out("daemonset/imagecache-agent")
        self.counts("app", len(self.nodes))

    def started(self, unit: str) -> list[int]:
        """When it became active on each node, in microseconds since the machine booted; 0 when it is not."""
        return [_started(node, unit) for node in self.nodes]


def _started(node: SystemdNode, unit: str) -> int:
    shown = node.systemctl("show", "--property=ActiveState,ActiveEnterTimestampMonotonic", unit)
    found = dict(line.split("=", 1) for line in shown.split())
    return int(found["ActiveEnterTimestampMonotonic"]) if found["ActiveState"] == "active" else 0


def restarts(node: SystemdNode) -> int:
    return int(node.systemctl("show", "--property=NRestarts", "--value", AGENT))


@pytest.fixture
def site() -> Iterator[Site]:
    with workspace() as directory:
        specs = [NodeSpec(version, labels={"pool": "caches"}, systemd=True) for version in VERSIONS]
        with (
            Cluster(directory / "cluster", specs) as cluster,
            Registry(directory / "team", host=cluster.address) as registry,
            Site(cluster, registry) as site,
        ):
            cluster.trust(registry)
            site.nodes = [node for node in cluster.nodes if isinstance(node, SystemdNode)]
            image = busybox_image(directory / "app", tar_of({"srv": None, "srv/0": b"app\n"}))
            site.image = registry.push("team/app:1", image)
            yield site
            sys.stdout.write(cluster.try_kubectl("get", "pods,events", "-A").stdout)
            for log in cluster.directory.glob("nodes/*/imagecache-*.log"):
                sys.stdout.write(log.read_text(errors="replace"))
        assert not processes_of(directory), "processes left behind"
        assert not mounts_below(directory), "mounts left behind"


def test_nodes_that_systemd_runs(site: Site) -> None:
    install(site)
    confined(site)
    out_of_memory(site)
    kept(site)
    crashes(site)
    power_cut(site)
    rewritten(site)
    upgrade(site)
    looped(site)
    selected_no_more(site)
    uninstall(site)


def install(site: Site) -> None:
    site.deploy("install")
    site.rolled_out("deployment/imagecache-controller")
    site.rolled_out("daemonset/imagecache-agent")
    assert all(node.run(PROGRAM, "--version").startswith("imagecache ") for node in site.nodes)

    site.cluster.kubectl("create", "--filename=-", stdin=manifest(site.image, site.registry))
    site.counts("app", len(site.nodes))
    site.registry.stop()
    site.run("app")
    for node in site.nodes:
        assert any("already present" in line for line in messages(site.cluster, PodSpec(f"app-{node.name}", "")))


def confined(site: Site) -> None:
    """The kernel says so of the process. docs/security.md has what the unit leaves to it."""
    for node in site.nodes:
        status = dict(line.split(":\t", 1) for line in node.run("sh", "-c", STATUS).splitlines() if ":\t" in line)
        assert int(status["CapBnd"], 16) == sum(1 << number for number in CAPABILITIES)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        node.run("mountpoint", "--quiet", USER_NAMESPACE)
        node.run("systemd-analyze", "security", "--offline=true", "--threshold=50", f"/etc/systemd/system/{AGENT}")


def out_of_memory(site: Site) -> None:
    """What a worker takes, a worker's end gives back: nobody else of the unit ends, nor anything beside it."""
    for node in site.nodes:
        before = node.systemctl("show", "--property=MainPID,NRestarts", AGENT)
        assert node.systemctl("show", "--property=MemoryMax", "--value", AGENT).strip().isdigit()
        assert node.systemctl("show", "--property=OOMPolicy", "--value", AGENT) == "continue\n"
        node.systemctl("set-property", "--runtime", AGENT, "MemoryMax=400M")
        assert node.run("sh", "-c", _HOG, "sh", AGENT).endswith("KILL\n")
        assert node.systemctl("show", "--property=MainPID,NRestarts", AGENT) == before
        node.systemctl("revert", AGENT)
    assert site.reads()


def kept(site: Site) -> None:
    """What stays of the pod has nothing of the node but a directory, and when it crashes nothing happens there."""
    before = site.started(AGENT), site.started(CONTAINERD), [node.run("cat", CONFIG) for node in site.nodes]
    pids = [keeper(node) for node in site.nodes]
    for node, pid in zip(site.nodes, pids, strict=True):
        status = dict(
            line.split(":\t", 1) for line in node.run("cat", f"/proc/{pid}/status").splitlines() if ":\t" in line
        )
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(KEEPER)}
        assert {int(status[kind], 16) for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        mounted = {line.split()[4] for line in node.run("cat", f"/proc/{pid}/mountinfo").splitlines()}
        assert POD in mounted
        assert not {path for path in mounted if path.startswith("/host")}
        assert node.run("stat", "--file-system", "--format=%T %c", POD) == "tmpfs 64\n"
        # as it can: the agent takes nothing, and has the token that it had
        node.run("sh", "-c", f"ln -sfn {PLANTED} {POD}/store-ca.crt && chown -h {KEEPER}:{KEEPER} {POD}/store-ca.crt")
        node.run("sh", "-c", f"kill -KILL {pid}")
    for node, pid in zip(site.nodes, pids, strict=True):
        assert wait_until(lambda node=node, pid=pid: keeper(node) not in {"", pid}, seconds=60, every=0.5)  # type: ignore[misc]
        assert "BEGIN CERTIFICATE" in node.run("cat", "/run/imagecache/credentials/store-ca.crt")
        assert "root:" not in node.run("cat", "/run/imagecache/credentials/store-ca.crt")
    after = site.started(AGENT), site.started(CONTAINERD), [node.run("cat", CONFIG) for node in site.nodes]
    assert after == before
    site.cluster.kubectl("delete", "pods", "--selector=app.kubernetes.io/component=agent", f"--namespace={NAMESPACE}")
    site.wait_agents()
    assert site.started(CONTAINERD) == before[1], "a pod that is replaced installs the same again"


def keeper(node: SystemdNode) -> str:
    """Its id; empty while there is none."""
    words = node.run("sh", "-c", "grep -lzx keeper /proc/[0-9]*/cmdline || true").split()
    return words[0].split("/")[2] if words else ""


def looped(site: Site) -> None:
    """Also where the kernel needs loop devices, which the unit must not keep from it."""
    site.registry.start()
    made = busybox_image(site.cluster.directory / "looped", tar_of({"srv": None, "srv/0": b"looped\n"}))
    image = site.registry.push("team/looped:1", made)
    site.cluster.kubectl("create", "--filename=-", stdin=manifest(image, site.registry, "looped"))
    site.counts("looped", len(site.nodes))
    site.registry.stop()
    pods = [PodSpec(f"looped-{node.name}", image, node=node.name) for node in site.nodes]
    run_pods(site.cluster, *pods)
    for pod, node in zip(pods, site.nodes, strict=True):
        assert site.cluster.kubectl("exec", pod.name, "--", "cat", "/srv/0") == "looped\n"
        assert "/dev/loop" in node.run("grep", "erofs", "/proc/mounts")
        site.cluster.kubectl("delete", "pod", pod.name, "--now")
    site.cluster.kubectl("delete", f"{KIND}/looped", "--timeout=60s")


def crashes(site: Site) -> None:
    """However often and however long: who asks meanwhile waits, and systemd does not give up."""
    for number in range(8):
        assert wait_until(lambda: all(site.started(AGENT)), seconds=30)
        for node in site.nodes:
            node.systemctl("kill", "--signal=SIGKILL", AGENT)
        if number == 0:
            site.run("crash")

    configs = [node.run("cat", CONFIG) for node in site.nodes]
    before = [restarts(node) for node in site.nodes]
    for node in site.nodes:
        node.run("sh", "-c", f"echo 'mode = [' >{CONFIG}; systemctl kill --signal=SIGKILL {AGENT}")
    for node, count in zip(site.nodes, before, strict=True):
        assert wait_until(lambda node=node, count=count: restarts(node) > count + 2, seconds=60, every=0.5)  # type: ignore[misc]
    for node, config in zip(site.nodes, configs, strict=True):
        node.run("sh", "-c", f"printf %s '{config}' >{CONFIG}")
    site.run("error")
    assert all(site.started(AGENT))


def power_cut(site: Site) -> None:
    """The agent is there before containerd, and the node does not need the DaemonSet for that."""
    for node in site.nodes:
        node.restart()
    for agent, containerd in zip(site.started(AGENT), site.started(CONTAINERD), strict=True):
        assert 0 < agent < containerd
    assert wait_until(site.reads, seconds=60, every=0.5)
    site.wait_agents()


def rewritten(site: Site) -> None:
    """A tool writes containerd's file anew, without the imports, and restarts it: no pod waits for our repair."""
    for node in site.nodes:
        text = node.run("cat", "/etc/containerd/config.toml")
        lines = [line for line in text.splitlines() if not line.startswith("imports")]
        config = node.containerd.config
        # an installer has the lock, as after a boot, and may have looked at the file before
        node.run("sh", "-c", "flock /run/imagecache/host.lock sleep 5 </dev/null >/dev/null 2>&1 & sleep 0.5")
        config.write_text("\n".join(lines) + "\n")
        node.systemctl("restart", CONTAINERD)
        assert "imagecache.toml" in config.read_text(), "imported again before containerd has read it"
    assert wait_until(site.reads, seconds=60, every=0.5)
    site.run("rewritten")
    for node in site.nodes:
        said = messages(site.cluster, PodSpec(f"rewritten-{node.name}", ""))
        assert any("already present" in line for line in said)
        settings = node.run("cat", CONFIG)
        node.run(PROGRAM, "host", "install")  # what messages tell people to do, with the only program that is there
        assert node.run("cat", CONFIG) == settings


def upgrade(site: Site) -> None:
    """containerd goes on."""
    agents, containerds = site.started(AGENT), site.started(CONTAINERD)
    site.deploy("upgrade", "taint.timeoutSeconds=120", "agent.nodeSelector.pool=caches", "mountFrom=loop")
    site.wait_agents()
    assert all(new > old for new, old in zip(site.started(AGENT), agents, strict=True))
    assert site.started(CONTAINERD) == containerds
    site.run("again")
    assert site.reads()


def selected_no_more(site: Site) -> None:
    """The nodes serve what is there, and take everything back when they are selected again."""
    drop_ins = [node.containerd.config.with_name("imagecache.toml") for node in site.nodes]
    configured = [drop_in.read_text() for drop_in in drop_ins]
    site.select(selected=False)
    site.counts("app", 0)
    assert wait_until(site.reads, seconds=30, every=0.5)
    assert all(site.started(AGENT))
    assert all(drop_in.read_text() != before for drop_in, before in zip(drop_ins, configured, strict=True))

    site.select(selected=True)
    site.wait_agents()
    assert [drop_in.read_text() for drop_in in drop_ins] == configured
    assert wait_until(site.reads, seconds=30, every=0.5)


def uninstall(site: Site) -> None:
    """The service serves until the last container has gone, and takes everything with it."""
    cluster = site.cluster
    containerds = site.started(CONTAINERD)
    cluster.kubectl("delete", CACHE, "--timeout=60s")
    site.helm("uninstall", "imagecache", "--wait", "--timeout=150s")
    cluster.kubectl("wait", "--for=delete", "pods", "--all", f"--namespace={NAMESPACE}", "--timeout=150s")
    assert all(new > old for new, old in zip(site.started(CONTAINERD), containerds, strict=True))
    assert wait_until(site.reads, seconds=30, every=0.5)
    assert all(site.started(AGENT))
    site.registry.start()
    cluster.kubectl("delete", "pods", "--all", "--now")
    site.run("after", pull_policy="Always")
    assert wait_until(lambda: not left(site), seconds=150, every=1), left(site)


def left(site: Site) -> list[str]:
    """Files, units and mounts of ours on any node; what is in /run goes at the next boot, too."""
    drop_ins = ["/etc/containerd/imagecache.toml", "/etc/containerd/*/zz-imagecache.toml"]
    places = ["/opt/imagecache", "/etc/imagecache", "/run/imagecache/*.sock", *drop_ins]
    script = f"""\
ls -d {" ".join(places)} /etc/systemd/system/*imagecache* /etc/systemd/system/*/*imagecache*.conf 2>/dev/null
systemctl list-units --all --plain --no-legend 'imagecache-*'
grep /var/lib/imagecache/ /proc/mounts
true"""
    return [line for node in site.nodes for line in node.run("sh", "-c", script).splitlines()]


def manifest(image: str, registry: Registry, name: str = "app") -> str:
    document = {
        "apiVersion": "eci.alibabacloud.com/v1",
        "kind": "ImageCache",
        "metadata": {"name": name, "annotations": {"k8s.aliyun.com/plain-http-registry": registry.address}},
        "spec": {"images": [image]},
    }
    return json.dumps(document)
