"""Starts in a user namespace beside starts without one: mapped mounts cost a fixed time, copies of an image do not.

By ``ctr run``, since kubelet asks for a newer runc than Debian 12 has; every start has a fresh container on a node that
has the image.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

from bench.contender import Site, pull
from bench.contenders.node import push
from bench.conversion import timed
from bench.figures import Goal, Measured, Row, Samples
from bench.fresh import Roots, drawn, settle
from bench.images import BenchImage
from testkit.peers.node import CachingNode

_STARTS = 12
"""In each round: they are short, and a median of twenty was not enough to tell 1.05 from 1.1."""
_IDS = "0:100000:65536"
_MAPPED = ("--uidmap", _IDS, "--gidmap", _IDS, "--remap-labels")


def measure(site: Site, images: Sequence[BenchImage], rounds: int, roots: Roots) -> Measured:
    directory = roots.fresh("namespaces")
    with CachingNode(directory, "2.4", sandbox_image=site.pause) as node:
        pull(node.address, site.pause)
        references = {image.key: push(site, image.image(), f"namespaces/{image.key}:1") for image in images}
        for key, reference in references.items():
            node.create(key, [reference])
        turns = [(image, flags, Samples()) for image in images for flags in ((), _MAPPED)]
        numbers = itertools.count()
        for _, (image, flags, samples) in drawn(rounds * _STARTS, turns):
            settle()
            words = ("run", "--rm", "--snapshotter", "imagecache", *flags, references[image.key], f"s{next(numbers)}")
            samples.add(timed(partial(node.ctr, *words, "true")))
    roots.spend(directory)
    found = {(image.key, bool(flags)): samples for image, flags, samples in turns}
    return Measured(
        [
            Row(
                f"start in a user namespace, {image.title}",
                found[image.key, True],
                found[image.key, False],
                "without one",
                Goal(1.1),
            )
            for image in images
        ]
    )
