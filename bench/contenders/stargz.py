"""stargz-snapshotter: images are published as eStargz, nodes mount them by FUSE and fetch what is read.

Sources: docs/overview.md, docs/ctr-remote.md, docs/transfer.md and docs/passthrough.md of stargz-snapshotter 0.19.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from bench.contender import Node, Site
from bench.contenders import conversion
from bench.contenders.node import LazyNode, push, remote_snapshotter
from imagecache.digest import Digest
from testkit.oci_layout import Image, Layout
from testkit.real_images import cached

_ALL = 100.0
_CONFIG = """\
[blob]
  # Default 50,000 bytes, the granularity of requests: reading a whole image of 1,000 MB takes 2,600 of them, and nearly
  # twice as long. Larger pieces gain little more, and would bring what is not read to a slow link.
  chunk_size = 1048576
# FUSE passthrough (off by default) is not used: measured here, it makes neither the first nor a second read faster, and
# a file is then fetched whole when it is opened.
[resolver.host."{host}"]
  [[resolver.host."{host}".mirrors]]
    host = "{host}"
    insecure = true  # the registry speaks HTTP
"""


def convert(image: Image, record: Path, directory: Path) -> Image:
    """``ctr-remote image convert --estargz --estargz-record-in``.

    Compression level 9 is its default. igzip decompresses, as --estargz-gzip-helper allows.
    """
    layout = conversion.layout_copy(image, directory)
    return conversion.convert("estargz-convert", ["-record", record, "-gzip-helper", "igzip"], layout)


def fetched(layers: Sequence[Path]) -> bool:
    """By the state directory of each mount (docs/overview.md)."""
    states = [file for layer in layers for file in (layer / ".stargz-snapshotter").glob("*.json")]
    return bool(states) and all(json.loads(file.read_bytes())["fetchedPercent"] >= _ALL for file in states)


@dataclass(frozen=True, slots=True)
class Stargz:
    """Optimized for ``workload``: its files come first in each layer and are prefetched.

    What is converted once is kept in the cache, as other images are: level 9 takes minutes for a large one.
    """

    key: str = "stargz"
    title: str = "stargz-snapshotter (eStargz, optimized)"
    workload: Sequence[str] = conversion.WORKLOAD
    durable: bool = False

    def publish(self, site: Site, image: Image, name: str) -> str:
        def make(layout: Layout) -> Image:
            record = conversion.record(site, image, self.workload, site.directory / f"record-{uuid4().hex[:8]}")
            return convert(image, record, layout.directory)

        workload = Digest.sha256("\0".join(self.workload).encode())
        return push(site, cached(f"estargz-{image.descriptor.digest.short}-{workload.short}", make), name)

    @contextmanager
    def node(self, site: Site, directory: Path) -> Iterator[Node]:
        with remote_snapshotter(site, directory, "stargz", _CONFIG.format(host=site.host)) as containerd:
            yield LazyNode(containerd, directory, directory / "stargz", fetched)


STARGZ = Stargz()
