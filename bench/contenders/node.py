"""What the peers have in common: a node with containerd 2.4, and beside it the peer's own snapshotter where it has one.

It must not have a setting that makes a peer faster or slower: those stand in the peer's file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.contender import LONGEST, Site, pull
from testkit.oci_layout import Image
from testkit.peers.containerd import Containerd
from testkit.peers.processes import Daemon, end_processes, mounts_below, unmount_below, wait_until
from testkit.peers.programs import MissingPeer, PeerFailed, cache, environment
from testkit.peers.readiness import accepts

TOOLS = cache() / "peers-bench"
"""Made by ``./dev bench``."""
IGZIP = TOOLS / "isal" / "usr" / "bin"
"""The directory of ISA-L's gzip, which containerd decompresses with when it is in PATH. It is in no other's PATH."""
UNPACKS = len(os.sched_getaffinity(0)) + 1
"""Layers that a tuned contender unpacks at once: one for each processor, and one that waits for the disk."""
EROFS_UTILS = TOOLS / "erofs-utils" / "bin"

_PROXY = """\
version = 3
[proxy_plugins.{name}]
  type = "snapshot"
  address = "{socket}"
  [proxy_plugins.{name}.exports]
    root = "{root}"
    # both systems' documents on containerd's transfer service: without it the snapshotter does not learn of which image
    # and layer a snapshot is, and layers are downloaded as usual
    enable_remote_snapshot_annotations = "true"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "{name}"
  differ = "walking"
"""


def program(name: str) -> Path:
    """One that ``tools/bench-go`` has. Raises MissingPeer."""
    path = TOOLS / "bin" / name
    if not path.exists():
        raise MissingPeer(f"{path} is not there: run ./dev bench, which builds it")
    return path


@dataclass(frozen=True, slots=True)
class PeerNode:
    """A node on which a pull is all that a user does."""

    containerd: Containerd
    directory: Path

    @property
    def address(self) -> Path:
        return self.containerd.address

    def bring(self, reference: str) -> None:
        pull(self.address, reference)

    def warm(self, reference: str) -> None:
        """The image has been pulled: a kubelet pulls nothing."""
        self.bring(reference)


Fetched = Callable[[Sequence[Path]], bool]
"""Whether a lazy snapshotter has fetched, in the background, all of the layers that are mounted at these places."""


@dataclass(frozen=True, slots=True)
class LazyNode(PeerNode):
    """A node whose layers are FUSE mounts below ``layers``."""

    layers: Path
    fetched: Fetched

    def warm(self, reference: str) -> None:
        """The image has been pulled before, and all of it fetched since, as both systems do by default."""
        self.bring(reference)
        if not wait_until(lambda: self.fetched(mounts_below(self.layers)), seconds=LONGEST, every=0.5):
            raise PeerFailed(f"{reference} was not fetched in the background in {LONGEST:.0f} s")


@contextmanager
def containerd_node(
    site: Site,
    directory: Path,
    *,
    snapshotter: str = "overlayfs",
    settings: Sequence[str] = (),
    path: Sequence[Path] = (),
    environ: Mapping[str, str] | None = None,
) -> Iterator[Containerd]:
    """A fresh containerd 2.4 that has the sandbox image. ``settings`` are TOML; ``path`` as for ``Containerd``."""
    containerd = Containerd(
        directory / "containerd",
        "2.4",
        sandbox_image=site.pause,
        snapshotter=snapshotter,
        drop_ins=settings,
        hosts={host: f"http://{host}" for host in (site.host, site.registry.address)},
        path=path,
        environ=environ,
    )
    with containerd:
        pull(containerd.address, site.pause)
        yield containerd


@contextmanager
def remote_snapshotter(site: Site, directory: Path, name: str, config: str) -> Iterator[Containerd]:
    """Start the snapshotter of ``tools/bench-go/NAME-snapshotter``, and a containerd that uses it for all images.

    ``config`` is the snapshotter's TOML; what it has, its mounts too, is in a directory called ``name``.
    """
    beside = directory / name
    beside.mkdir(parents=True)
    file, socket, root = beside / "config.toml", beside / "snapshotter.sock", beside / "root"
    file.write_text(config)
    root.mkdir(mode=0o700)
    argv: list[str | Path] = [program(f"{name}-snapshotter"), "--address", socket, "--config", file, "--root", root]
    daemon = Daemon(name, argv, beside, environment())
    proxy = _PROXY.format(name=name, socket=socket, root=root)
    try:
        daemon.start(lambda: accepts(socket))
        with containerd_node(site, directory, snapshotter=name, settings=[proxy]) as containerd:
            yield containerd
    finally:
        daemon.kill()  # asked to end, both remove their caches, and files are to stay
        end_processes(beside)
        unmount_below(beside)


def forget(containerd: Containerd, reference: str) -> None:
    """Delete the image's records and wait until containerd has removed its content and snapshots."""
    records = containerd.ctr("-n", "k8s.io", "images", "ls").splitlines()[1:]
    targets = {name: digest for name, _media, digest, *_rest in (line.split() for line in records)}
    for name, digest in targets.items():
        if digest == targets.get(reference):
            containerd.ctr("-n", "k8s.io", "images", "rm", "--sync", name)


def push(site: Site, image: Image, name: str) -> str:
    """Publish an image as it is; the reference that nodes use."""
    site.registry.push(name, image)
    return f"{site.host}/{name}"
