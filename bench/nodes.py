"""The contenders: ordinary containerds and nodes with imagecache, all on the same registry and disk."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from testkit.images import pause_image
from testkit.oci_layout import Image
from testkit.peers.containerd import Containerd, Version
from testkit.peers.cri import Cri
from testkit.peers.node import CachingNode, Mode
from testkit.peers.registry import Registry

T = TypeVar("T")
TRIM_DELAY = 2.0
"""Seconds; the default is longer, which only makes a measurement wait."""


@dataclass(frozen=True, slots=True)
class Field:
    """Where everything happens."""

    directory: Path
    registry: Registry
    image: Image
    reference: str
    pause: str


@contextmanager
def field(directory: Path, image: Image) -> Iterator[Field]:
    with Registry(directory / "registry") as registry:
        reference = registry.push("team/app:1", image)
        pause = registry.push("pause:1", pause_image(directory / "pause"))
        yield Field(directory, registry, image, reference, pause)


def run(work: Coroutine[None, None, T]) -> T:
    return asyncio.run(work)


async def _pull(address: Path, reference: str) -> None:
    async with Cri(address, seconds=600) as cri:
        await cri.pull(reference)


def pull(address: Path, reference: str) -> None:
    run(_pull(address, reference))


def ordinary(stack: ExitStack, place: Field, version: Version) -> Containerd:
    """Containerd with overlayfs on ext4, as everybody has it; the sandbox image is there."""
    name = f"ordinary-{version}"
    node = stack.enter_context(Containerd(place.directory / name, version, sandbox_image=place.pause))
    pull(node.address, place.pause)
    return node


def caching(stack: ExitStack, place: Field, version: Version, mode: Mode, store: Path) -> CachingNode:
    """The same containerd with imagecache; several may share a store."""
    node = stack.enter_context(
        CachingNode(
            place.directory / f"{mode}-{version}",
            version,
            mode,
            sandbox_image=place.pause,
            store=store,
            trim_delay=TRIM_DELAY,
        )
    )
    pull(node.address, place.pause)
    return node


def forget(containerd: Containerd, reference: str) -> None:
    """Delete the image and wait until containerd has removed its content and snapshots."""
    names = [line.split()[0] for line in containerd.ctr("-n", "k8s.io", "images", "ls", "-q").splitlines() if line]
    repository = reference.rpartition(":")[0]
    mine = [name for name in names if name.startswith((repository, "sha256:"))]
    keep = _pause_id(containerd, names)
    for name in mine:
        if name not in keep:
            containerd.ctr("-n", "k8s.io", "images", "rm", "--sync", name)


def _pause_id(containerd: Containerd, names: list[str]) -> set[str]:
    """The record of the sandbox image's id: it has the same target as its name."""
    targets = {}
    for line in containerd.ctr("-n", "k8s.io", "images", "ls").splitlines()[1:]:
        name, _media, digest, *_rest = line.split()
        targets[name] = digest
    pause = {digest for name, digest in targets.items() if "/pause" in name}
    return {name for name in names if targets.get(name) in pause}
