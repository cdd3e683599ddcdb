"""soci-snapshotter: lazily with an index beside the image (v2), and its parallel pull of ordinary images.

Sources: docs/config.md, docs/soci-index-manifest-v2.md, docs/prefetch.md, docs/parallel-mode.md and docs/kubernetes.md
of soci-snapshotter 0.16.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

from bench.contender import Node, Site
from bench.contenders import conversion
from bench.contenders.node import IGZIP, UNPACKS, LazyNode, PeerNode, push, remote_snapshotter
from testkit.oci_layout import Image
from testkit.peers.registry import free_port

MIN_LAYER = 10 << 20
"""The command's default: smaller layers are pulled whole."""
_COMMON = """\
# One database for each layer, so that layers do not wait for each other (docs/config.md).
metadata_store = "db-multi"
metrics_address = "{metrics}"
[content_store]
  type = "{store}"
  # Layers without an index (under 10 MB) need the manifest, and the snapshotter asks containerd for it: with the
  # default address, of a node's own containerd, each such pull waits ten seconds for a socket that is not there.
  containerd_address = "{containerd}"
[resolver.host."{host}"]
  [[resolver.host."{host}".mirrors]]
    host = "http://{host}"
    insecure = true  # the registry speaks HTTP
"""
_LAZY = """\
[pull_modes.soci_v2]
  enable = true
[background_fetch]
  # Defaults: 30 s after a mount, then a span every half second, so that an image of 1,000 MB is on the node after two
  # and a half minutes. Sooner, as stargz-snapshotter does it; what runs first and reading all files take no longer.
  silence_period_msec = 5000
  fetch_period_msec = 50
[prefetch]
  enable = {prefetch}
"""
_PARALLEL = """\
[pull_modes.soci_v2]
  enable = false
[pull_modes.parallel_pull_unpack]
  enable = true
  # Default 3 and whole layers; the document recommends 10 to 20 and 8 or 16 MB.
  max_concurrent_downloads_per_image = 10
  concurrent_download_chunk_size = "16mb"
  # Default 1.
  max_concurrent_unpacks_per_image = {unpacks}
  # As in the document's example: no compressed layer is kept.
  discard_unpacked_layers = true
  # Default: containerd's choice, unpigz or Go.
  [pull_modes.parallel_pull_unpack.decompress_streams."gzip"]
    path = "{igzip}"
    args = ["-d", "-c"]
"""


def _config(site: Site, directory: Path, mode: str, *, metrics: str, store: str, **values: object) -> str:
    """``store`` is SOCI's own or containerd's."""
    socket = directory / "containerd" / "containerd.sock"
    return (_COMMON + mode).format(host=site.host, metrics=metrics, store=store, containerd=socket, **values)


_FETCHED = b'operation_type="background_fetch"'


def fetched(metrics: str, layers: Sequence[Path]) -> bool:
    """By its metrics: how long the background fetch of a layer took is there when it has ended."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5) as answer:
        lines = answer.read().splitlines()
    done = [line for line in lines if b"duration_milliseconds_count" in line and _FETCHED in line]
    return bool(layers) and len(done) >= len(layers)


def convert(image: Image, directory: Path, record: Path | None = None, *, least: int = MIN_LAYER) -> Image:
    """``soci convert``, with ``--prefetch-files-json`` of the recorded files if any; ``directory`` must not exist.

    ``least``: bytes, its ``--min-layer-size``.
    """
    layout = conversion.layout_copy(image, directory)
    flags: list[str | Path] = ["-min-layer-size", str(least)]
    if record is not None:
        files = directory.with_name(f"{directory.name}-prefetch.json")
        files.write_text(json.dumps(conversion.recorded_paths(record)))
        flags += ["-prefetch-files-json", files]
    return conversion.convert("soci-convert", flags, layout)


@dataclass(frozen=True, slots=True)
class Lazy:
    """Layers are fetched in spans as they are read; with ``workload``, its files' spans are prefetched."""

    key: str
    title: str
    workload: Sequence[str] = ()
    durable: bool = False
    least: int = MIN_LAYER
    """Bytes of the smallest layer that gets an index."""

    def publish(self, site: Site, image: Image, name: str) -> str:
        scratch = site.directory / f"{self.key}-{uuid4().hex[:8]}"
        record = None
        if self.workload:
            record = conversion.record(site, image, self.workload, scratch / "recorder")
        return push(site, convert(image, scratch / "layout", record, least=self.least), name)

    @contextmanager
    def node(self, site: Site, directory: Path) -> Iterator[Node]:
        metrics = f"127.0.0.1:{free_port()}"
        prefetch = "true" if self.workload else "false"
        text = _config(site, directory, _LAZY, metrics=metrics, store="soci", prefetch=prefetch)
        with remote_snapshotter(site, directory, "soci", text) as containerd:
            yield LazyNode(containerd, directory, directory / "soci", partial(fetched, metrics))


@dataclass(frozen=True, slots=True)
class Parallel:
    """Ordinary images: whole layers, fetched in parts and unpacked side by side."""

    key: str = "soci-parallel"
    title: str = "soci-snapshotter, parallel pull and unpack"
    durable: bool = False

    def publish(self, site: Site, image: Image, name: str) -> str:
        return push(site, image, name)

    @contextmanager
    def node(self, site: Site, directory: Path) -> Iterator[Node]:
        igzip = IGZIP / "igzip"  # parallel mode needs containerd's content store
        text = _config(site, directory, _PARALLEL, metrics="", store="containerd", igzip=igzip, unpacks=UNPACKS)
        with remote_snapshotter(site, directory, "soci", text) as containerd:
            yield PeerNode(containerd, directory)


LAZY = Lazy("soci", "soci-snapshotter, lazy (index v2)")
SMALL_LAYERS = Lazy("soci", "soci-snapshotter, lazy (index v2), layers from 1 MiB", least=1 << 20)
"""For an image that has no larger layer: with the default the command refuses it (docs/getting-started.md)."""
PREFETCH = Lazy("soci-prefetch", "soci-snapshotter, lazy with prefetch", conversion.WORKLOAD)
"""Not faster than ``LAZY`` on loopback, and more bytes: a container waits until every span of its files is there."""
PARALLEL = Parallel()
