"""Starts through a second runtime handler, whose containers stand on containerd's overlayfs, and the attach before.

A handler with a snapshotter of its own is what a runtime class of kata or gVisor has. Attaching a cache unpacks it
there too, once for each node: that is the price, and starts are then as those of the default handler.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

from bench.contender import LONGEST, Site, pull
from bench.contenders.node import push
from bench.conversion import timed
from bench.figures import Goal, Measured, Row, Samples
from bench.fresh import Roots, drawn, settle
from bench.images import BenchImage
from testkit.peers.cri import Cri
from testkit.peers.node import CachingNode

_SECOND = "two"
_HANDLERS = f"""\
version = 3
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{_SECOND}]
  runtime_type = "io.containerd.runc.v2"
  snapshotter = "overlayfs"
"""
_ROUNDS = 2
"""At most: each builds and unpacks the image on a node of its own."""
_STARTS = 12
"""In each round: they are short."""


def measure(site: Site, image: BenchImage, rounds: int, roots: Roots) -> Measured:
    reference = push(site, image.image(), "handlers/app:1")
    starts = {"": Samples(), _SECOND: Samples()}
    attaches = Samples()
    for _ in range(min(rounds, _ROUNDS)):
        directory = roots.fresh("handlers")
        node = CachingNode(directory, "2.4", sandbox_image=site.pause)
        node.containerd.add_drop_in("handlers", _HANDLERS)
        with node:
            pull(node.address, site.pause)
            node.create("app", [reference], "--no-attach")
            settle()
            attaches.add(timed(partial(node.command, "attach", "app")))
            for handler in starts:
                asyncio.run(_start(node, reference, handler))  # the pause image comes into its snapshotter
            for _, handler in drawn(_STARTS, tuple(starts)):
                settle()
                starts[handler].add(asyncio.run(_start(node, reference, handler)))
        roots.spend(directory)
    note = f"overlayfs, {image.title}"
    return Measured(
        [
            Row("start through a second handler", starts[_SECOND], starts[""], "the default one", Goal(1.1), note=note),
            Row("attach, unpacked for a second handler too", attaches, note=note),
        ]
    )


async def _start(node: CachingNode, reference: str, handler: str) -> float:
    """Seconds from the request for a pod until its container runs."""
    async with Cri(node.address, seconds=LONGEST) as cri:
        begin = time.perf_counter()
        async with cri.running(reference, handler=handler):
            return time.perf_counter() - begin
