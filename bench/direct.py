"""Reads with O_DIRECT in a container, ours beside overlayfs.

Ours is on loop devices: a layer image that is mounted from its file has no such reads (ADR 21).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bench.contender import Contender, Site
from bench.contenders import overlayfs
from bench.contenders.imagecache import ImageCache
from bench.figures import Measured, Row, Samples
from bench.fresh import Roots, drawn
from bench.images import BenchImage
from bench.programs import DIRECT, DIRECT_RANDOM
from bench.warm import VARIED, program_seconds

_TITLES = {
    DIRECT: "read the twenty largest files with O_DIRECT",
    DIRECT_RANDOM: "6,000 random 4 KiB reads with O_DIRECT",
}


def measure(site: Site, image: BenchImage, rounds: int, roots: Roots) -> Measured:
    """Every turn has a node of its own, as in ``warm``."""
    ours, peer = ImageCache(loop=True), overlayfs.TUNED
    contenders: Sequence[Contender] = (ours, peer)
    references = {one.key: one.publish(site, image.image(), f"{image.key}/{one.key}:direct") for one in contenders}
    found = {(one.key, program): Samples() for one in contenders for program in _TITLES}
    for _, one in drawn(rounds, contenders):
        directory = roots.fresh(f"direct-{one.key}")
        with one.node(site, directory) as node:
            node.warm(references[one.key])
            for program in _TITLES:
                seconds = program_seconds(node, references[one.key], program, times=VARIED)
                found[one.key, program].add(asyncio.run(seconds))
        roots.spend(directory)
    return Measured(
        [
            Row(title, found[ours.key, program], found[peer.key, program], "overlayfs", note="proxy, on loop devices")
            for program, title in _TITLES.items()
        ]
    )
