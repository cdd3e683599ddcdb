"""imagecache on one host, as the README installs it: defaults, an agent beside containerd, ``imagecache create``.

Without fsync it runs under libeatmydata, which makes every fsync, fdatasync and sync of our programs return at once.
That is no setting of ours: it shows the price of durability beside peers that do not pay it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.contender import Node, Site, pull
from testkit.oci_layout import Image
from testkit.peers.containerd import Version
from testkit.peers.node import CachingNode, Mode
from testkit.peers.programs import MissingPeer

NAME = "app"
_UNSYNCED = Path(f"/usr/lib/{platform.machine()}-linux-gnu/libeatmydata.so")


@dataclass(slots=True)
class ImageCacheNode:
    """A host with containerd and our agent."""

    host: CachingNode
    _created: bool = False

    @property
    def address(self) -> Path:
        return self.host.address

    @property
    def directory(self) -> Path:
        return self.host.directory

    def bring(self, reference: str) -> None:
        """Create the cache unless it was; its images are then present, and a kubelet pulls nothing."""
        if not self._created:
            self.host.create(NAME, [reference])
            self._created = True
        pull(self.host.address, reference)

    def warm(self, reference: str) -> None:
        self.bring(reference)


@dataclass(frozen=True, slots=True)
class ImageCache:
    """``imagecache create`` on a node with an empty store, into containerd 2.4 or 1.6."""

    mode: Mode = "proxy"
    version: Version = "2.4"
    durable: bool = True
    loop: bool = False
    """Layer images on loop devices, for reads with O_DIRECT."""

    @property
    def key(self) -> str:
        return f"imagecache-{self.mode}{'' if self.durable else '-unsynced'}{'-loop' if self.loop else ''}"

    @property
    def title(self) -> str:
        words = ("imagecache create", self.mode, "" if self.durable else "without fsync", "on loop devices" * self.loop)
        return ", ".join(filter(None, words))

    def publish(self, site: Site, image: Image, name: str) -> str:
        site.registry.push(name, image)
        return f"{site.host}/{name}"

    @contextmanager
    def node(self, site: Site, directory: Path) -> Iterator[Node]:
        host = CachingNode(directory, self.version, self.mode, sandbox_image=site.pause)
        host.environ["IMAGECACHE_MOUNT_FROM"] = "loop" if self.loop else "auto"
        if not self.durable:
            if not _UNSYNCED.exists():
                raise MissingPeer(f"{_UNSYNCED} does not exist: run ./dev bench, which installs libeatmydata1")
            host.environ["LD_PRELOAD"] = str(_UNSYNCED)
        with host:
            pull(host.address, site.pause)
            yield ImageCacheNode(host)
