"""containerd 2.4 with overlayfs, twice: as a distribution installs it, and as somebody has it who has read about pulls.

Sources: docs/cri/config.md and core/transfer of containerd 2.4, and pkg/archive/compression. The fetch of one layer in
parts (``concurrent_layer_fetch_buffer``) is left off, as it is by default: one connection fills these links.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.contender import Node, Site
from bench.contenders.node import IGZIP, UNPACKS, PeerNode, containerd_node, push
from testkit.oci_layout import Image

_TUNED = f"""\
version = 3
[plugins."io.containerd.transfer.v1.local"]
  # Default 3. So many that the next layer is there when a processor is free to unpack it.
  max_concurrent_downloads = 10
  # Default 1. overlayfs unpacks a layer without the ones below it.
  max_concurrent_unpacks = {UNPACKS}
"""


@dataclass(frozen=True, slots=True)
class Overlayfs:
    """Images as everybody publishes them; layers are files in directories."""

    key: str
    title: str
    settings: Sequence[str] = ()
    path: Sequence[Path] = ()
    environ: Mapping[str, str] | None = None
    durable: bool = False
    """The compressed layers are synced, the unpacked ones are not (``image_pull_with_sync_fs`` is off by default)."""

    def publish(self, site: Site, image: Image, name: str) -> str:
        return push(site, image, name)

    @contextmanager
    def node(self, site: Site, directory: Path) -> Iterator[Node]:
        made = containerd_node(site, directory, settings=self.settings, path=self.path, environ=self.environ)
        with made as containerd:
            yield PeerNode(containerd, directory)


AS_INSTALLED = Overlayfs(
    "overlayfs",
    "containerd 2.4, as installed",
    # Go decompresses: distributions' containerd neither depends on these programs nor recommends them
    environ={"CONTAINERD_DISABLE_IGZIP": "1", "CONTAINERD_DISABLE_PIGZ": "1"},
)
TUNED = Overlayfs("overlayfs-tuned", "containerd 2.4, tuned", [_TUNED], [IGZIP])
