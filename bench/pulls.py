"""CRI's PullImage when every layer is on the node, and the attach that makes a pull unnecessary.

The pull downloads the manifest and the config and nothing else. Its peer is containerd's own cache of prebuilt layers
(``layer_content_caches``, containerd 2.4), which does the same. An attach runs with the registry off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.contender import Site, pull
from bench.contenders.erofs import PREBUILT, PrebuiltNode
from bench.contenders.node import forget
from bench.conversion import timed
from bench.figures import Goal, Measured, Row, Samples
from bench.fresh import Roots, drawn, settle
from imagecache.apps.attach import LocalAttacher
from imagecache.clock import SystemClock
from imagecache.settings.choices import Mode as ModeSetting
from imagecache.settings.table import Settings
from imagecache.store.bundle_document import Bundle
from imagecache.store.store import Store
from testkit.oci_layout import Image
from testkit.peers.containerd import Version
from testkit.peers.node import CachingNode, Mode

_VARIANTS: Sequence[tuple[Version, Mode]] = (("system", "proxy"), ("2.4", "proxy"), ("2.4", "native"))
_PEERS: Version = "2.4"
"""The first containerd that has such a cache."""
_PULLS = 3
"""In each round: they are short."""
_ATTACHES = 8
"""In each turn."""


@dataclass(frozen=True, slots=True)
class _Caching:
    version: Version
    mode: Mode
    node: CachingNode

    @property
    def note(self) -> str:
        return f"{self.mode}, containerd {'of Debian' if self.version == 'system' else self.version}"


def measure(site: Site, image: Image, rounds: int, roots: Roots) -> Measured:
    reference = f"{site.host}/team/pulls:1"
    site.registry.push("team/pulls:1", image)
    with ExitStack() as stack:
        store = roots.fresh("pulls-store")
        ours = [_start(stack, site, roots, store, *variant) for variant in _VARIANTS]
        ours[0].node.create("app", [reference], "--no-attach")
        peer = stack.enter_context(PREBUILT.node(site, roots.fresh("pulls-prebuilt")))
        peer.warm(reference)
        rows = _pulls(reference, ours, peer, rounds)
        for one in ours:
            forget(one.node.containerd, reference)
        site.registry.stop()
        rows += _attaches(store, ours, rounds)
        site.registry.start()
        return Measured(rows)


def _start(stack: ExitStack, site: Site, roots: Roots, store: Path, version: Version, mode: Mode) -> _Caching:
    directory = roots.fresh(f"pulls-{mode}-{version}")
    node = stack.enter_context(CachingNode(directory, version, mode, sandbox_image=site.pause, store=store))
    pull(node.address, site.pause)
    return _Caching(version, mode, node)


def _pulls(reference: str, ours: Sequence[_Caching], peer: PrebuiltNode, rounds: int) -> list[Row]:
    nodes = [peer.containerd, *(one.node.containerd for one in ours)]
    turns = [(containerd, Samples()) for containerd in nodes]
    for _, (containerd, samples) in drawn(rounds * _PULLS, turns):
        forget(containerd, reference)
        settle()
        samples.add(timed(partial(pull, containerd.address, reference)))
    (_, pulled), *cached = turns
    return [
        Row("CRI pull, every layer there", samples, pulled, PREBUILT.title, Goal(1.0), note=one.note)
        if one.version == _PEERS
        else Row("CRI pull, every layer there", samples, note=one.note)
        for one, (_, samples) in zip(ours, cached, strict=True)
    ]


def _attaches(store: Path, ours: Sequence[_Caching], rounds: int) -> list[Row]:
    opened = Store.open(store)
    (bundle,) = opened.bundles.all()
    layers = len(bundle.images[0].layers)
    goal = Goal((20 + 2 * layers) / 1000, unit="s")
    rows = [
        Row(f"attach, {layers} layers: at most 20 ms and 2 ms a layer", Samples(), goal=goal, note=one.note)
        for one in ours
    ]
    for _, (one, row) in drawn(rounds, list(zip(ours, rows, strict=True))):
        settings = Settings(store=store, address=one.node.address, mode=ModeSetting(one.mode))
        settle()
        asyncio.run(_attach(LocalAttacher(opened, settings, SystemClock()), bundle, row.ours))
    return rows


async def _attach(attacher: LocalAttacher, bundle: Bundle, samples: Samples) -> None:
    """The attach itself, in this process. The first one of a turn is not counted: another node had its turn before."""
    await attacher.attach(bundle)
    for _ in range(_ATTACHES):
        await attacher.detach(bundle)
        start = time.perf_counter()
        await attacher.attach(bundle)
        samples.add(time.perf_counter() - start)
