"""What every contender is: one way for an image to get from a registry into a container on a node.

Each has a file in ``bench/contenders`` with its whole configuration, so that whoever runs that system can judge it. All
stand on one registry, one kernel and one disk, and are asked the same through CRI. It must not measure anything.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from testkit.oci_layout import Image
from testkit.peers.cri import Cri
from testkit.peers.registry import Registry

LONGEST = 900.0
"""Seconds that one call of CRI may take."""


@dataclass(frozen=True, slots=True)
class Site:
    """What all contenders stand on."""

    directory: Path
    registry: Registry
    """As publishers reach it."""
    host: str
    """``host:port`` of the registry as nodes reach it: its own, or that of a slower link that leads there."""
    pause: str
    """The sandbox image, on loopback: every node has it before anything is measured."""


class Node(Protocol):
    """A node of a contender: its daemons answer, the sandbox image is there, nothing else is."""

    @property
    def address(self) -> Path:
        """The socket that a kubelet would ask to run containers."""

    @property
    def directory(self) -> Path:
        """Everything that the node keeps on disk is below it."""

    def bring(self, reference: str) -> None:
        """Do what a user of this system does so that a container of the image can be created; return when it can."""

    def warm(self, reference: str) -> None:
        """Leave the node as this system leaves one that is prepared for the image; ``bring`` is then short."""


class Contender(Protocol):
    """A system in one configuration."""

    @property
    def key(self) -> str:
        """A word for raw data and pictures: ``overlayfs``, ``stargz``."""

    @property
    def title(self) -> str:
        """For tables."""

    @property
    def durable(self) -> bool:
        """Whether layers are synced to the disk when ``bring`` returns."""

    def publish(self, site: Site, image: Image, name: str) -> str:
        """Put the image into the registry in the form that this system's nodes pull, converted where it needs that.

        ``name`` is ``repository:tag``. Returns the reference with the host that nodes use.
        """

    def node(self, site: Site, directory: Path) -> AbstractContextManager[Node]:
        """A fresh node in ``directory``, which does not exist yet.

        Leaving it ends its processes and mounts; its files stay, since removing them slows down whoever writes next.
        """


def pull(address: Path, reference: str) -> None:
    """CRI's PullImage."""

    async def call() -> None:
        async with Cri(address, seconds=LONGEST) as cri:
            await cri.pull(reference)

    asyncio.run(call())
