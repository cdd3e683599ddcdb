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

from bench.link import Link
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
    """``host:port`` of the registry as nodes reach it: the registry's own, or a slower link that leads there."""
    pause: str
    """The sandbox image, on loopback: every node has it before anything is measured."""
    link: Link | None = None
    """What ``host`` is the address of; None: the registry's own."""


class Node(Protocol):
    """A node of a contender: its daemons answer, the sandbox image is there, nothing else is."""

    @property
    def address(self) -> Path:
        """The socket that a kubelet would ask to run containers."""

    @property
    def directory(self) -> Path:
        """Everything that the node keeps on disk is below it."""

    def bring(self, reference: str) -> None:
        """Do what this system and a kubelet do before a container of the image can be created: usually ``pull``."""

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

        Leaving it ends its processes and mounts. Its files stay: removing them slows down whoever writes next.
        """


def pull(address: Path, reference: str) -> None:
    """What a kubelet does with ``imagePullPolicy: IfNotPresent``: ask for the image, pull it when it is not there."""

    async def call() -> None:
        async with Cri(address, seconds=LONGEST) as cri:
            if await cri.image_status(reference) is None:
                await cri.pull(reference)

    asyncio.run(call())
