"""Containers of a user namespace: no copy of their image, and every file as with containerd's overlayfs.

By ``ctr``: kubelet wants a runc that maps bind mounts too (1.2), which Debian 12 does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from testkit.images import busybox_image
from testkit.peers.node import CachingNode
from testkit.peers.programs import find
from testkit.peers.registry import Registry
from testkit.tars import CAPABILITY, DIRECTORY, Entry, tar

pytestmark = pytest.mark.peers
ONE, OTHER = "0:100000:65536", "0:300000:65536"
FACTS = (
    "stat -c '%n %u %g %a' / /srv /srv/*; cat /srv/secret; touch /srv/new /srv/plain && stat -c '%u %g' /srv/new;"
    " mkdir /srv/made && mv /srv/plain /srv/made/ && rm /srv/tool && ls /srv"
)
"""What the image's files look like, and what root of the namespace may do with them."""


@pytest.fixture
def image(directory: Path, registry: Registry) -> str:
    able = {b"SCHILY.xattr.security.capability": CAPABILITY}
    files = tar(
        Entry(b"srv", DIRECTORY, mode=0o755),
        Entry(b"srv/plain", content=b"plain", uid=7, gid=8),
        Entry(b"srv/secret", content=b"secret", mode=0o600),
        Entry(b"srv/tool", content=b"tool", mode=0o4755, uid=65534, gid=65534),
        Entry(b"srv/busybox-able", content=find("busybox").read_bytes(), mode=0o755, pax=able),
    )
    return registry.push(f"{directory.name}/mapped:1", busybox_image(directory / "image", files))


@pytest.fixture
def node(directory: Path, pause: str) -> Iterator[CachingNode]:
    directory.chmod(0o711)  # a container's first process is here an ordinary user, who must reach its root
    with CachingNode(directory / "node", "2.4", sandbox_image=pause) as running:
        yield running


@pytest.fixture
def pulled(node: CachingNode, image: str) -> str:
    """The image, cached by us and unpacked by overlayfs."""
    node.create("cache", [image])
    hosts = node.containerd.directory / "certs.d"
    node.ctr("images", "pull", "--local", "--snapshotter", "overlayfs", "--hosts-dir", hosts, image)
    return image


def arguments(image: str, name: str, ids: str, snapshotter: str) -> Sequence[str]:
    mapped = ("--uidmap", ids, "--gidmap", ids, "--remap-labels")
    return ("--snapshotter", snapshotter, *mapped, image, name)


def run(node: CachingNode, image: str, name: str, script: str, ids: str = ONE, by: str = "imagecache") -> str:
    return node.ctr("run", "--rm", *arguments(image, name, ids, by), "sh", "-c", script)


@contextmanager
def running(node: CachingNode, image: str, name: str, ids: str) -> Iterator[None]:
    """A container that goes on, in the namespace of these ids."""
    node.ctr("run", "-d", *arguments(image, name, ids, "imagecache"), "sleep", "1000")
    try:
        yield
    finally:
        node.ctr("tasks", "rm", "-f", name)
        node.ctr("containers", "rm", name)


def inside(node: CachingNode, name: str, script: str) -> str:
    return node.ctr("tasks", "exec", "--exec-id", "asks", name, "sh", "-c", script)


def committed(node: CachingNode) -> set[str]:
    listed = node.ctr("snapshots", "--snapshotter", "imagecache", "ls")
    return {line.split()[0] for line in listed.splitlines() if line.endswith("Committed")}


def test_nothing_is_copied_for_a_mapping(node: CachingNode, image: str) -> None:
    node.create("cache", [image])
    run(node, image, "first", "true")
    before = committed(node)

    run(node, image, "again", "true")
    run(node, image, "other", "true", OTHER)

    assert committed(node) == before
    assert not any("remap" in name for name in before)


def test_every_file_is_as_with_overlayfs(node: CachingNode, pulled: str) -> None:
    ours, theirs = (run(node, pulled, by, FACTS, by=by) for by in ("imagecache", "overlayfs"))

    assert ours == theirs
    assert "/srv/plain 7 8 644" in ours
    assert "/srv/tool 65534 65534 4755" in ours


def test_a_file_capability_counts_as_with_overlayfs(node: CachingNode, pulled: str) -> None:
    user = ("--allow-new-privs", "--user", "7:8")
    program = ("/srv/busybox-able", "grep", "CapEff", "/proc/self/status")
    ours, theirs = (
        node.ctr("run", "--rm", *user, *arguments(pulled, by, ONE, by), *program) for by in ("imagecache", "overlayfs")
    )

    assert ours == theirs
    assert int(ours.split()[1], 16) == 1 << 13, "cap_net_raw"


def test_two_mappings_at_once(node: CachingNode, image: str) -> None:
    node.create("cache", [image])
    with running(node, image, "one", ONE), running(node, image, "other", OTHER):
        for name in ("one", "other"):
            assert inside(node, name, "touch /srv/new; stat -c '%u' /srv/new /srv/secret; cat /srv/secret").split() == [
                *("0", "0", "secret")
            ]
        written = (node.containerd.root / "io.containerd.snapshotter.v1.imagecache").glob("snapshots/*/fs/srv/new")
        assert sorted(path.stat().st_uid for path in written) == [100000, 300000]


def test_a_restart_of_everything_but_the_container(node: CachingNode, image: str) -> None:
    node.create("cache", [image])
    with running(node, image, "goes-on", ONE):
        node.stop_agent()
        node.start_agent()
        node.containerd.restart()
        assert inside(node, "goes-on", "stat -c '%u' /srv/secret") == "0\n"

        node.ctr("tasks", "rm", "-f", "goes-on")
        node.ctr("tasks", "start", "-d", "goes-on")  # asks for the mounts of a snapshot from before
        assert inside(node, "goes-on", "stat -c '%u' /srv/plain") == "7\n"


def test_containerd_1_6_copies_and_starts(directory: Path, pause: str, image: str) -> None:
    """It has no mapped mounts, so its client changes the owners of a copy."""
    directory.chmod(0o711)
    with CachingNode(directory / "node", "system", sandbox_image=pause) as node:
        node.create("cache", [image])
        mapped = ("--snapshotter", "imagecache", "--uidmap", ONE, "--gidmap", ONE)

        told = node.ctr("run", "--rm", *mapped, image, "copied", "stat", "-c", "%n %u", "/srv/plain", "/srv/secret")

        assert told == "/srv/plain 7\n/srv/secret 0\n"
