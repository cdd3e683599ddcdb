"""The probe's answers in each column of the table: a version of containerd, and what serves the layers there.

Everything is real: containerd with overlayfs pulls the image, a node of ours gets an ImageCache of it. Between two
phases the caches of this machine are dropped. It must not judge the answers.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imagecache.api.nodes import CacheState
from testkit.peers.cluster import cluster, prepull_agent
from testkit.peers.containerd import Containerd, Version
from testkit.peers.cri import Cri
from testkit.peers.node import CachingNode
from testkit.peers.registry import Registry
from testkit.peers.workspace import clean
from testkit.sameness.image import PROGRAM, probe_image

LITTLE = 96 << 20
"""Bytes of memory of the container that the phase ``memory`` runs in."""
Answers = Mapping[str, str]
"""By the name of the question."""


@dataclass(frozen=True, slots=True)
class Column:
    version: Version
    mode: Literal["overlayfs", "proxy", "native", "prepull"]

    @property
    def containerd(self) -> str:
        """In words. Debian 12 has 1.6, Debian 13 has 1.7."""
        return "1.x of Debian" if self.version == "system" else self.version

    @property
    def peer(self) -> Column:
        """What it is compared with."""
        return Column(self.version, "overlayfs")

    def __str__(self) -> str:
        return f"{self.mode}-{self.version}"


COLUMNS = (
    Column("system", "overlayfs"),
    Column("system", "proxy"),
    Column("system", "prepull"),
    Column("2.4", "overlayfs"),
    Column("2.4", "proxy"),
    Column("2.4", "native"),
    Column("2.4", "prepull"),
)
OURS = tuple(column for column in COLUMNS if column.mode != "overlayfs")


def measure(directory: Path, registry: Registry, pause: str) -> dict[Column, Answers]:
    """All columns, one after the other, each on a node of its own below ``directory``."""
    reference = registry.push("same/probe:1", probe_image(directory / "image"))
    found = {}
    for column in COLUMNS:
        place = directory / str(column)
        found[column] = _answers(column, place, pause, reference)
        clean(place)
    return found


def _answers(column: Column, directory: Path, pause: str, reference: str) -> Answers:
    if column.mode == "overlayfs":
        with Containerd(directory, column.version, sandbox_image=pause) as containerd:
            return asyncio.run(_asked(containerd.address, pause, reference, pull=True))
    if column.mode == "prepull":
        with Containerd(directory / "node", column.version, sandbox_image=pause) as containerd:
            return asyncio.run(_asked_of_prepulled(containerd, directory, pause, reference))
    with CachingNode(directory, column.version, column.mode, sandbox_image=pause) as node:
        node.create("probe", [reference])
        return asyncio.run(_asked(node.address, pause, reference, pull=False))


async def _asked_of_prepulled(containerd: Containerd, directory: Path, pause: str, reference: str) -> Answers:
    """The node's agent has containerd unpack the layers of the cluster's store."""
    async with cluster(directory) as made, prepull_agent(made, containerd, directory) as agent:
        await made.cache("probe", reference)
        await agent.start()
        await made.until_states(probe=CacheState.READY)
        return await _asked(containerd.address, pause, reference, pull=False)


async def _asked(address: Path, pause: str, reference: str, *, pull: bool) -> Answers:
    async with Cri(address, seconds=300) as cri:
        await cri.pull(pause)
        if pull:
            await cri.pull(reference)
        async with cri.running(reference) as container:
            found = await _phase(cri, container, "before")
            await asyncio.to_thread(_drop_caches)
            found |= await _phase(cri, container, "after")
        async with cri.running(reference, memory=LITTLE) as container:
            return found | await _phase(cri, container, "memory")


async def _phase(cri: Cri, container: str, phase: str) -> dict[str, str]:
    done = await cri.exec_sync(container, [*PROGRAM, phase])
    if done.code:
        raise AssertionError(f"the probe ended with {done.code}: {done.stdout}{done.stderr}")
    answers: dict[str, str] = json.loads(done.stdout)
    return answers


def _drop_caches() -> None:
    """Pages too: an inode stays while it has some."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
