"""What the agent needs from outside in a cluster. Fakes are in ``imagecache.testing.cluster_ports``.

Every method raises errors of ours; those whose next step is to retry are tried again by the loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from imagecache.api.nodes import NodeStatus
from imagecache.cluster.budget import Disk
from imagecache.digest import Digest
from imagecache.store.model import LayerName, LayerRecord, SnapshotDocument


@dataclass(frozen=True, slots=True)
class Cache:
    """What a node needs to know of one ImageCache; ``wanted.cache_of`` makes it from the document."""

    name: str
    id: str
    """``status.imageCacheId``; empty before the first one."""
    ready: bool
    """The snapshot ``id`` can be fetched (also while a newer one is being built)."""
    selector: str = ""
    """Label selector for nodes; empty selects all."""
    priority: int = 0
    """More is kept longer when space is short."""
    created: float = 0.0
    """Seconds since the epoch."""
    digests: Mapping[str, Digest] = field(default_factory=dict)
    """What the API server says that each reference (as written) is: index or manifest."""
    deleting: bool = False


class Caches(Protocol):
    def watch(self) -> AsyncIterator[Sequence[Cache]]:
        """All ImageCaches, whole, now and again whenever one has changed.

        Never an incomplete list: what is missing from it is taken off this node.
        """


class Machine(Protocol):
    """This node."""

    async def labels(self) -> Mapping[str, str]:
        """Of the Node object."""

    async def disk(self) -> Disk:
        """The filesystem of the store."""

    async def in_use(self) -> frozenset[LayerName]:
        """Layer images that are mounted for containers right now: detaching does not free them."""


class Attacher(Protocol):
    """containerd's records for images."""

    async def attach(self, snapshot: SnapshotDocument) -> Sequence[str]:
        """Make the images usable; returns the names that containerd has now. Idempotent."""

    async def detach(self, snapshot: SnapshotDocument, keep: Sequence[SnapshotDocument]) -> None:
        """Take the records back, except those that a snapshot in ``keep`` has too. Containers go on."""

    async def missing(self, names: Iterable[str]) -> frozenset[str]:
        """Those of the names that containerd does not have (any more): kubelet's image collection takes them."""


class Reporter(Protocol):
    async def report(self, status: NodeStatus) -> None:
        """Write the status of this node's NodeImageCache. Called only when it differs from the last one written."""


class Verifier(Protocol):
    async def verify(self, fd: int, layer: LayerRecord) -> None:
        """Prove that everything beside the (already proven) tar of a layer image follows from the tar.

        Raises of the ContentError family, StoreCorrupt.
        """
