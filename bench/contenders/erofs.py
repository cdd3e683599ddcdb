"""containerd's own erofs snapshotter and differ, tuned, and its cache of layers that were converted before.

Source: docs/snapshotters/erofs.md of containerd 2.4. Debian 12's mkfs.erofs is too old for the differ (it reads no
tar), so ``./dev bench`` builds Debian's newer source.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from bench.contender import LONGEST, Node, Site
from bench.contenders.node import EROFS_UTILS, IGZIP, UNPACKS, PeerNode, containerd_node, push
from testkit.oci_layout import Image
from testkit.peers.containerd import Containerd

_SETTINGS = f"""\
version = 3
[plugins."io.containerd.differ.v1.erofs"]
  # As its document recommends from erofs-utils 1.8.2 on: the same input gives the same image, and file data stays in
  # the order of the tar, which saves a sort and a second pass.
  mkfs_options = ["-T0", "--mkfs-time", "--sort=none"]
[plugins."io.containerd.service.v1.diff-service"]
  default = ["erofs", "walking"]
[plugins."io.containerd.transfer.v1.local"]
  # Default 3. So many that the next layer is there when a processor is free to convert it.
  max_concurrent_downloads = 10
  # Default 1. The snapshotter converts a layer without the ones below it.
  max_concurrent_unpacks = {UNPACKS}
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "erofs"
  differ = "erofs"
"""
_CACHE = """\
version = 3
[plugins."io.containerd.snapshotter.v1.erofs"]
  layer_content_caches = ["{cache}"]
"""
_PATH = (EROFS_UTILS, IGZIP)


@dataclass(frozen=True, slots=True)
class Erofs:
    """Images as everybody publishes them; each layer is converted to an EROFS file."""

    key: str = "erofs"
    title: str = "containerd 2.4 erofs, tuned"
    durable: bool = False
    """The compressed layers are synced, the EROFS files are not (``set_immutable``, which syncs, is off by default)."""

    def publish(self, site: Site, image: Image, name: str) -> str:
        return push(site, image, name)

    @contextmanager
    def node(self, site: Site, directory: Path) -> Iterator[Node]:
        with containerd_node(site, directory, snapshotter="erofs", settings=[_SETTINGS], path=_PATH) as containerd:
            yield PeerNode(containerd, directory)


@contextmanager
def publisher(site: Site, directory: Path) -> Iterator[Containerd]:
    """A containerd for ``prepare``: where an operator makes caches."""
    with containerd_node(site, directory, path=_PATH) as containerd:
        yield containerd


def prepare(containerd: Containerd, reference: str, target: Path, *, compressors: str = "") -> None:
    """Make the cache of an image: fetch its content, convert each layer into ``target``. Every file is synced.

    ``compressors`` are those of mkfs.erofs; none: uncompressed.
    """
    hosts = ("--hosts-dir", containerd.directory / "certs.d")
    containerd.ctr("content", "fetch", *hosts, reference, seconds=LONGEST)
    flags = ["--compressors", compressors] if compressors else []
    # the same as the differ's: --workers is left to mkfs.erofs, which takes all processors to compress
    flags += ["--mkfs-options", "-T0 --mkfs-time --sort=none"]
    containerd.ctr("images", "build-erofs-cache", *flags, reference, target, seconds=LONGEST)


@dataclass(frozen=True, slots=True)
class PrebuiltNode(PeerNode):
    """A node of ``Prebuilt``: its cache is empty until ``warm``; then a pull brings manifest and config alone."""

    site: Site
    compressors: str

    def warm(self, reference: str) -> None:
        """As an operator does: make the cache near the registry, put it onto the node, and pull."""
        near = self.site.registry.address + reference.removeprefix(self.site.host)
        made = self.site.directory / f"prebuilt-{self.compressors or 'plain'}"
        if not made.exists():  # once for all nodes
            with publisher(self.site, self.site.directory / "publishers" / uuid4().hex[:8]) as containerd:
                prepare(containerd, near, made, compressors=self.compressors)
        shutil.copytree(made, self.directory / "cache")
        self.bring(reference)


@dataclass(frozen=True, slots=True)
class Prebuilt:
    """The erofs snapshotter with a cache (``layer_content_caches``) that has the image. For warm nodes only."""

    key: str
    title: str
    compressors: str = ""
    durable: bool = True
    """``build-erofs-cache`` syncs each file, and nothing else is made of layers."""

    def publish(self, site: Site, image: Image, name: str) -> str:
        return push(site, image, name)

    @contextmanager
    def node(self, site: Site, directory: Path) -> Iterator[PrebuiltNode]:
        settings = [_SETTINGS, _CACHE.format(cache=directory / "cache")]
        with containerd_node(site, directory, snapshotter="erofs", settings=settings, path=_PATH) as containerd:
            yield PrebuiltNode(containerd, directory, site, self.compressors)


TUNED = Erofs()
PREBUILT = Prebuilt("erofs-prebuilt", "containerd 2.4 erofs, prebuilt cache")
PREBUILT_LZ4 = Prebuilt("erofs-prebuilt-lz4", "containerd 2.4 erofs, prebuilt cache (lz4)", "lz4")
