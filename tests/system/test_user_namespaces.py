"""Pods with user namespaces (``hostUsers: false``) start from a cache as all pods do, and their files are the image's.

On a node of their own: kubelet asks for a runc that maps bind mounts too (1.2), and Debian 12 has 1.1.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.cluster.agent import AgentHost
from testkit.cluster.installed import Installed
from testkit.cluster.pods import PodSpec, messages, run_pods, wait_ready
from testkit.cluster.programs import newer_runc
from testkit.images import MOST_LAYERS, busybox_image, tar_of, thin_layers
from testkit.oci_layout import LayerSpec
from testkit.peers.node import Mode
from testkit.peers.processes import wait_until
from testkit.peers.programs import find
from testkit.tars import CAPABILITY, DIRECTORY, Entry, tar

from .conftest import Site

pytestmark = pytest.mark.timeout(300)
SIZE = 20_000_000
"""Bytes of each image that a copy would take."""
FEW = 3
"""Layers of an image."""
depths = pytest.mark.parametrize("layers", [FEW, MOST_LAYERS])
FACTS = (
    "stat -c '%n %u %g %a' / /srv /srv/*; cat /srv/secret; touch /srv/new /srv/plain && stat -c '%u %g' /srv/new;"
    " mkdir /srv/made && mv /srv/plain /srv/made/ && rm /srv/tool && ls /srv"
)
"""What the image's files look like, and what root of the container may do with them."""
PING = ("ping", "-c", "1", "-W", "5", "127.0.0.1")
"""Needs cap_net_raw: containerd lets all users ping, but not in user namespaces (``enable_unprivileged_icmp``). Of
busybox' applets it is one that keeps what a setuid bit gives."""
_NUMBERS = itertools.count()


def files() -> bytes:
    """A layer with files of several owners, a setuid program, and one with a capability."""
    busybox = find("busybox").read_bytes()
    able = {b"SCHILY.xattr.security.capability": CAPABILITY}
    return tar(
        Entry(b"srv", DIRECTORY, mode=0o755),
        Entry(b"srv/plain", content=b"plain", uid=7, gid=8),
        Entry(b"srv/secret", content=b"secret", mode=0o600),
        Entry(b"srv/tool", content=b"tool", mode=0o4755, uid=65534, gid=65534),
        Entry(b"srv/busybox-setuid", content=busybox, mode=0o4755),
        Entry(b"srv/busybox-able", content=busybox, mode=0o755, pax=able),
    )


def push(site: Site, layers: int = FEW) -> str:
    """An image that nobody has seen."""
    number = next(_NUMBERS)
    large = LayerSpec(tar_of({"srv": None, "srv/large": random.Random(number).randbytes(SIZE)}), level=0)
    folder = Path(tempfile.mkdtemp(dir=site.directory))
    made = busybox_image(folder, files(), large, *thin_layers(layers - FEW))
    return site.registry.push(f"namespaces/{number}:1", made)


def cache(site: Site, image: str) -> None:
    """On every node."""
    name = f"namespaces-{next(_NUMBERS)}"
    site.create(name, image)
    site.system.wait_ready(name)


def add_node(system: Installed, mode: Mode) -> Iterator[AgentHost]:
    agent = system.add_node(mode=mode, drop_ins=[newer_runc()])
    yield agent
    system.remove_node(agent)


@pytest.fixture(scope="module")
def agent(whole_site: Site) -> Iterator[AgentHost]:
    """Of the node with the newer runc."""
    yield from add_node(whole_site.system, "proxy")


@pytest.fixture
def native(system: Installed) -> Iterator[AgentHost]:
    """Of such a node in native mode."""
    yield from add_node(system, "native")


@pytest.fixture
def image(site: Site, agent: AgentHost) -> str:
    """Cached on every node, that of ``agent`` among them."""
    del agent
    reference = push(site)
    cache(site, reference)
    return reference


def mapped(agent: AgentHost, name: str, image: str, *, user: int | None = None, image_volume: str = "") -> PodSpec:
    """A pod with a user namespace."""
    return PodSpec(name, image, node=agent.node.name, host_users=False, user=user, image_volume=image_volume)


def inside(system: Installed, pod: PodSpec, script: str) -> str:
    return system.cluster.kubectl("exec", pod.name, "--", "sh", "-c", script)


def usage(agent: AgentHost, snapshotter: str = "imagecache") -> dict[str, int]:
    """Bytes of every snapshot on the node, as containerd tells kubelet."""
    command = ("-n", "k8s.io", "snapshots", "--snapshotter", snapshotter, "usage", "-b")
    rows = [line.split() for line in agent.node.containerd.ctr(*command).splitlines()[1:]]
    return {row[0]: int(row[1]) for row in rows}


def test_nothing_is_copied(site: Site, system: Installed, agent: AgentHost, image: str) -> None:
    pods = [mapped(agent, f"copies-{number}", image) for number in range(3)]
    before = usage(agent)

    with site.registry_off():
        run_pods(system.cluster, *pods)

    new = {key: size for key, size in usage(agent).items() if key not in before}
    assert len(new) == 2 * len(pods), f"each pod has one of its sandbox, one of its container: {new}"
    assert sum(new.values()) < SIZE / 10
    for pod in pods:
        assert any("already present on machine" in line for line in messages(system.cluster, pod)), pod.name


@depths
def test_every_file_is_as_without_a_user_namespace(
    site: Site, system: Installed, agent: AgentHost, layers: int
) -> None:
    image = push(site, layers)
    cache(site, image)
    pods = [mapped(agent, "facts-mapped", image), PodSpec("facts-plain", image, node=agent.node.name)]
    with site.registry_off():
        run_pods(system.cluster, *pods)

    in_namespace, plain = (inside(system, pod, FACTS) for pod in pods)

    assert in_namespace == plain
    assert "/srv/plain 7 8 644" in plain
    assert "/srv/tool 65534 65534 4755" in plain


def test_two_mappings_at_once(system: Installed, agent: AgentHost, image: str) -> None:
    pods = [mapped(agent, f"two-{number}", image) for number in range(2)]
    run_pods(system.cluster, *pods)

    ranges = [inside(system, pod, "cat /proc/self/uid_map").split() for pod in pods]
    written = [inside(system, pod, "echo >/srv/two; stat -c '%u' /srv/two /srv/secret").split() for pod in pods]

    hosts = {int(host) for _, host, _ in ranges}
    assert [inner for inner, _, _ in ranges] == ["0", "0"]
    assert len(hosts) == 2
    assert 0 not in hosts
    assert written == [["0", "0"], ["0", "0"]]
    root = agent.node.containerd.root / "io.containerd.snapshotter.v1.imagecache"
    assert {path.stat().st_uid for path in root.glob("snapshots/*/fs/srv/two")} == hosts


def test_setuid_programs_and_file_capabilities_count(system: Installed, agent: AgentHost, image: str) -> None:
    pod = mapped(agent, "privileges", image, user=7)
    run_pods(system.cluster, pod)

    def pings(program: str) -> bool:
        return not system.cluster.try_kubectl("exec", pod.name, "--", program, *PING).returncode

    assert inside(system, pod, "id -u") == "7\n"
    assert not pings("/bin/busybox")
    assert pings("/srv/busybox-setuid")
    assert pings("/srv/busybox-able")


def test_an_image_volume(site: Site, system: Installed, agent: AgentHost, image: str) -> None:
    volume = push(site)
    cache(site, volume)
    pods = [
        mapped(agent, "volume-mapped", image, image_volume=volume),
        PodSpec("volume-plain", image, node=agent.node.name, image_volume=volume),
    ]
    with site.registry_off():
        run_pods(system.cluster, *pods)

    paths = "/volume /volume/srv /volume/srv/*"
    script = f"stat -c '%n %u %g %a' {paths}; cat /volume/srv/secret; sha256sum </volume/srv/large"
    in_namespace, plain = (inside(system, pod, script) for pod in pods)

    assert in_namespace == plain
    assert "/volume/srv/plain 7 8 644" in plain


def test_an_image_that_is_pulled(site: Site, system: Installed, agent: AgentHost) -> None:
    """Its layers are ordinary directories of our snapshotter."""
    pulled = push(site)
    pods = [mapped(agent, "pulled-mapped", pulled), PodSpec("pulled-plain", pulled, node=agent.node.name)]
    run_pods(system.cluster, *pods)

    in_namespace, plain = (inside(system, pod, FACTS) for pod in pods)

    assert in_namespace == plain


def test_agent_and_containerd_restart(system: Installed, agent: AgentHost, image: str) -> None:
    """Under a running pod, whose container then ends and starts again."""
    pod = mapped(agent, "restart", image)
    run_pods(system.cluster, pod)
    before = inside(system, pod, "cat /proc/self/uid_map")

    agent.restart()
    agent.node.containerd.restart()

    def answers() -> bool:
        return not system.cluster.try_kubectl("exec", pod.name, "--", "cat", "/srv/secret").returncode

    assert wait_until(answers, seconds=60, every=0.5)
    system.cluster.try_kubectl("exec", pod.name, "--", "sh", "-c", "kill 1")  # ends with the container
    restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1"
    system.cluster.kubectl("wait", restarted, f"pod/{pod.name}", "--timeout=60s")
    wait_ready(system.cluster, pod)
    assert inside(system, pod, "cat /proc/self/uid_map") == before
    assert inside(system, pod, "stat -c '%u' /srv/plain /srv/secret; touch /srv/new").split() == ["7", "0"]


def test_the_node_reboots(site: Site, system: Installed, agent: AgentHost, image: str) -> None:
    pod = mapped(agent, "reboot", image)
    run_pods(system.cluster, pod)

    def owners() -> str:
        command = ("exec", pod.name, "--", "stat", "-c", "%u", "/srv/plain", "/srv/secret")
        return system.cluster.try_kubectl(*command).stdout

    with site.registry_off():
        agent.node.restart()
        system.cluster.wait_ready(agent.node)
        assert wait_until(lambda: owners().split() == ["7", "0"], seconds=90, every=0.5), owners()


@depths
def test_native_mode(site: Site, system: Installed, native: AgentHost, layers: int) -> None:
    """There containerd's own erofs snapshotter maps the layers."""
    image = push(site, layers)
    cache(site, image)
    pods = [mapped(native, "native-mapped", image), PodSpec("native-plain", image, node=native.node.name)]
    before = usage(native, "erofs")
    with site.registry_off():
        run_pods(system.cluster, *pods)

    in_namespace, plain = (inside(system, pod, FACTS) for pod in pods)

    assert in_namespace == plain
    new = [size for key, size in usage(native, "erofs").items() if key not in before]
    assert sum(new) < SIZE / 10
