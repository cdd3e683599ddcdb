"""What the agent needs from outside in a cluster. Fakes are in ``imagecache.testing.cluster_ports``.

Every method raises errors of ours; the loop tries again later whatever it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from imagecache.api.nodes import NodeStatus
from imagecache.cluster.budget import Allowance, Disk
from imagecache.cluster.memory import Slots
from imagecache.digest import DiffID, Digest
from imagecache.store.model import LayerName, LayerRecord, SnapshotDocument


@dataclass(frozen=True, slots=True)
class Cache:
    """What a node needs to know of one ImageCache; ``wanted.cache_of`` makes it from the object."""

    name: str
    id: str
    """``status.imageCacheId``; empty before the first one."""
    ready: bool
    """The snapshot ``id`` can be fetched (also while a newer one is being built)."""
    building: str = ""
    """Id of a snapshot that is being built for it now; empty: none."""
    selector: str = ""
    """Label selector for nodes; empty selects all."""
    priority: int = 0
    """More is kept longer when space is short."""
    created: float = 0.0
    """Seconds since the epoch."""
    digests: Mapping[str, Digest] = field(default_factory=dict)
    """What the API server says that each reference (as written) is: index or manifest."""
    deleting: bool = False


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
    """The snapshots that this node has, and the bytes of them."""

    documents: Mapping[str, SnapshotDocument] = field(default_factory=dict)
    """By id: all that are here, and those that were described."""
    whole: frozenset[str] = frozenset()
    """Ids of those that can be attached: nothing of them is missing."""
    present: Mapping[LayerName, int] = field(default_factory=dict)
    """Bytes on this disk of every layer image."""
    partial: Mapping[LayerName, int] = field(default_factory=dict)
    """Bytes of those that have begun to come."""
    ahead: Mapping[LayerName, int] = field(default_factory=dict)
    """Bytes of those that came, or come, from builds that are followed: no snapshot may need them yet."""
    held: frozenset[LayerName] = frozenset()
    """Leased by somebody: they stay even when no snapshot needs them."""


class Stock(Protocol):
    """Where this node's snapshots are, and how another one comes."""

    @property
    def bounded(self) -> bool:
        """Snapshots take this node's own disk, so a budget decides which may come."""

    async def inventory(self, wanted: Iterable[str]) -> Inventory:
        """What is here; at least what is known of the ids in ``wanted``. Raises StoreError."""

    async def describe(self, cache: Cache) -> None:
        """Get to know the cache's snapshot; afterwards the inventory has its document.

        Raises NotFound, StoreUnreachable, StoreRefused, StoreCorrupt, StoreError, ContentError.
        """

    async def fetch(self, cache: Cache, progress: Callable[[int], None]) -> None:
        """Have the cache's snapshot whole; ``progress`` gets its bytes that are here. Resumable when cancelled.

        Raises as ``describe``, and NoSpace, BlobNotFound.
        """

    async def follow(self, snapshot_id: str, allowance: Allowance) -> None:
        """Fetch what a running build of the snapshot makes, as it makes it, and keep it until this is cancelled.

        Only where a disk is bounded; elsewhere it returns. Raises NoSpace when that is more than ``allowance`` has,
        StoreUnreachable, StoreRefused, StoreError.
        """

    async def forget(self, snapshot_id: str) -> None:
        """The node does not need the snapshot any more. Idempotent; its files go with the next ``collect``."""

    async def collect(self) -> None:
        """Remove what no snapshot and no container needs."""


class Machine(Protocol):
    """This node's disk and containers."""

    async def disk(self) -> Disk:
        """The filesystem of the store."""

    async def in_use(self, documents: Iterable[SnapshotDocument]) -> frozenset[LayerName]:
        """Layer images of these that containers stand on right now: detaching does not free them."""


@dataclass(frozen=True, slots=True)
class Attached:
    """What attach came to."""

    names: tuple[str, ...]
    """The names that the runtime has now because of it."""
    note: str = ""
    """For people: which images are not among them, and why that is right."""


class Attacher(Protocol):
    """The runtime's records of images."""

    @property
    def mode(self) -> str:
        """``proxy``, ``native`` or ``prepull``; empty as long as nobody could ask the runtime."""

    async def attach(self, snapshot: SnapshotDocument) -> Attached:
        """Make the images usable. Idempotent."""

    async def detach(self, snapshot: SnapshotDocument, keep: Sequence[SnapshotDocument]) -> None:
        """Take the records back, except those that a snapshot in ``keep`` has too. Containers go on."""

    async def missing(self, names: Iterable[str]) -> frozenset[str]:
        """Those of the names that the runtime does not have (any more): kubelet's image collection takes them."""


class Reporter(Protocol):
    async def report(self, status: NodeStatus, node: Node) -> None:
        """Write the status of this node's NodeImageCache."""


class Proof(Protocol):
    """Of one layer image, whose bytes come in order."""

    async def arrived(self, offset: int, size: int) -> None:
        """The next ``size`` bytes of the layer image are at ``offset`` of the memory; ``finish`` says what is wrong."""

    async def consumed(self) -> None:
        """Returns when the memory of all that has arrived may be used again."""

    async def finish(self) -> None:
        """All bytes are in the file, and its tar has the diffID: prove that the rest follows from the tar.

        Raises of the ContentError family, StoreCorrupt.
        """


class Verifier(Protocol):
    def proves(self, layer: LayerRecord) -> bool:
        """Whether the proof is of every byte beside the tar, so that the digest of the whole file adds nothing."""

    def proof(
        self, diff_id: DiffID, tar_size: int | None, path: Path, slots: Slots
    ) -> AbstractAsyncContextManager[Proof]:
        """Begin with a layer image that is written to ``path`` and arrives in ``slots``. May wait for its turn.

        Without ``tar_size`` it arrives from the tar's first byte on, and what precedes that is in the file in the end.
        """
