"""What the agent needs from outside in a cluster. Fakes are in ``testkit.agent_dependencies``.

Every method raises errors of ours; the loop tries again later whatever it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from imagecache.agent.budget import Disk
from imagecache.api.assignment import Cache
from imagecache.api.nodes import NodeStatus
from imagecache.containerd.api import Attached
from imagecache.fetch.allowance import Allowance
from imagecache.store.model import Bundle, LayerName


@dataclass(frozen=True, slots=True)
class Node:
    """What matters of our Node object."""

    uid: str
    labels: Mapping[str, str]
    tainted: bool = False
    """It has the taint ``imagecache.dev/not-ready``."""


class Caches(Protocol):
    def watch(self) -> AsyncIterator[Sequence[Cache]]:
        """All ImageCaches, whole, now and again whenever one has changed.

        Never an incomplete list: what is missing from it is taken off this node.
        """


class Nodes(Protocol):
    """Our own Node object."""

    def watch(self) -> AsyncIterator[Node | None]:
        """As it is now, and again whenever it has changed; None when there is none."""

    async def untaint(self) -> None:
        """Take our taint away. Raises ObjectConflict when the Node has changed meanwhile."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The bundles that this node has, and the bytes of them."""

    documents: Mapping[str, Bundle] = field(default_factory=dict)
    """By id: all that are here, and those that were described."""
    whole: frozenset[str] = frozenset()
    """Ids of those that can be attached: nothing of them is missing."""
    present: Mapping[LayerName, int] = field(default_factory=dict)
    """Bytes on this disk of every layer image."""
    partial: Mapping[LayerName, int] = field(default_factory=dict)
    """Bytes of those that have begun to come."""
    ahead: Mapping[LayerName, int] = field(default_factory=dict)
    """Bytes of those that came, or come, from builds that are followed: no bundle may need them yet."""
    held: frozenset[LayerName] = frozenset()
    """Leased by somebody: they stay even when no bundle needs them."""


class LayerSource(Protocol):
    """Where this node's bundles are, and how another one comes."""

    @property
    def bounded(self) -> bool:
        """Bundles take this node's own disk, so a budget decides which may come."""

    async def inventory(self, wanted: Iterable[str]) -> Inventory:
        """What is here; at least what is known of the ids in ``wanted``. Raises StoreError."""

    async def describe(self, cache: Cache) -> None:
        """Get to know the cache's bundle; afterwards the inventory has its document.

        Raises NotFound, StoreUnreachable, StoreRefused, StoreCorrupt, StoreError, ContentError.
        """

    async def fetch(self, cache: Cache, progress: Callable[[int], None]) -> None:
        """Have the cache's bundle whole; ``progress`` gets its bytes that are here. Resumable when cancelled.

        Raises as ``describe``, and NoSpace, BlobNotFound.
        """

    async def follow(self, bundle_id: str, allowance: Allowance) -> None:
        """Fetch what a running build of the bundle makes, as it makes it, and keep it until this is cancelled.

        Only where a disk is bounded; elsewhere it returns. Raises NoSpace when that is more than ``allowance`` has,
        StoreUnreachable, StoreRefused, StoreError.
        """

    async def forget(self, bundle_id: str) -> None:
        """The node does not need the bundle any more. Idempotent; its files go with the next ``collect``."""

    async def collect(self) -> None:
        """Remove what no bundle and no container needs."""


class Machine(Protocol):
    """This node's disk and containers."""

    async def disk(self) -> Disk:
        """The filesystem of the store."""

    async def in_use(self, documents: Iterable[Bundle]) -> frozenset[LayerName]:
        """Layer images of these that containers stand on right now: detaching does not free them."""


class Attacher(Protocol):
    """The runtime's records of images."""

    @property
    def mode(self) -> str:
        """``proxy``, ``native`` or ``prepull``; empty as long as nobody could ask the runtime."""

    async def attach(self, bundle: Bundle) -> Attached:
        """Make the images usable. Idempotent."""

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle]) -> None:
        """Take the records back, except those that a bundle in ``keep`` has too. Containers go on."""

    async def missing(self, names: Iterable[str]) -> frozenset[str]:
        """Those of the names that the runtime does not have (any more): kubelet's image collection takes them."""


class Reporter(Protocol):
    async def report(self, status: NodeStatus, node: Node) -> None:
        """Write the status of this node's NodeImageCache."""
