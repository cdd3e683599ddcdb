"""What the agent depends on in a cluster: the API server, the runtime, the disk, and where bundles come from.

Fakes are in ``testkit.agent_dependencies``. Every method raises errors of ours; the loop retries whatever it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from imagecache.agent.budget import Disk, Part
from imagecache.agent.state import NodeState
from imagecache.api.assignment import Cache
from imagecache.api.nodes import NodeStatus
from imagecache.clock import Clock
from imagecache.containerd.api import ALONE, Attached, Beside, UnpackedChain
from imagecache.containerd.handlers import Handlers
from imagecache.fetch.allowance import Allowance
from imagecache.oci.descriptor import Platform
from imagecache.store.bundle_document import Bundle
from imagecache.store.layer_name import LayerName
from imagecache.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Node:
    """Our Node object, as far as it matters here."""

    uid: str
    labels: Mapping[str, str]
    platform: Platform | None = None
    """None: not known."""
    tainted: bool = False
    """It has the taint ``imagecache.dev/not-ready``."""


class Caches(Protocol):
    def watch(self) -> AsyncIterator[Sequence[Cache]]:
        """All ImageCaches, first as they are and again after each change.

        Never an incomplete list: a cache that is missing from it is removed from this node.
        """


class Nodes(Protocol):
    """Our own Node object."""

    def watch(self) -> AsyncIterator[Node | None]:
        """As it is now, and again after each change; None while it does not exist."""

    async def untaint(self) -> None:
        """Remove our taint. Raises ObjectConflict when the Node has changed meanwhile."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The bundles that this node has, and the bytes of them."""

    documents: Mapping[str, Bundle] = field(default_factory=dict)
    """By id: all that are on the node, and those that were described."""
    whole: frozenset[str] = frozenset()
    """Ids of bundles of which nothing is missing, so that they can be attached."""
    present: Mapping[LayerName, int] = field(default_factory=dict)
    """Bytes on this disk of every layer image."""
    partial: Mapping[LayerName, int] = field(default_factory=dict)
    """Bytes on this disk of layer images that are being fetched."""
    prefetched: Mapping[LayerName, int] = field(default_factory=dict)
    """Bytes of those that come from running builds: no bundle on this node needs them yet."""
    leased: frozenset[LayerName] = frozenset()
    """They stay even when no bundle needs them."""


class LayerSource(Protocol):
    """Where this node's bundles are, and how it gets another one."""

    @property
    def bounded(self) -> bool:
        """Bundles take space of this node's own disk, so a budget decides which are fetched."""

    async def inventory(self, assigned: Mapping[str, Cache]) -> Inventory:
        """Everything on this node, and what is known of the bundles in ``assigned``, by id. Raises StoreError.

        A bundle that is not what the API server says by now counts as one that is not here.
        """

    async def describe(self, cache: Cache) -> None:
        """Read the cache's bundle document; afterwards the inventory has it.

        Raises NotFound, StoreUnreachable, StoreRefused, StoreCorrupt, StoreError, ContentError.
        """

    async def fetch(self, cache: Cache, progress: Callable[[int], None]) -> None:
        """Fetch the cache's bundle; ``progress`` gets its bytes on this node. Resumable when cancelled.

        Raises as ``describe``, and NoSpace, BlobNotFound.
        """

    async def prefetch(self, bundle_id: str, allowance: Allowance) -> None:
        """Fetch the layers of a running build of the bundle while it writes them; keep them until this is cancelled.

        Returns at once where ``bounded`` is false. Raises NoSpace when the layers need more than ``allowance`` has,
        StoreUnreachable, StoreRefused, StoreError.
        """

    async def forget(self, bundle_id: str) -> None:
        """Delete the bundle from this node. Idempotent; the next ``collect`` removes its files."""

    async def collect(self) -> None:
        """Remove the files that no bundle and no container needs."""


class Machine(Protocol):
    """This node's disk and containers."""

    async def disk(self) -> Disk:
        """The filesystem of the store."""

    async def in_use(self, documents: Iterable[Bundle], unpacked: Collection[str]) -> frozenset[Part]:
        """Parts of these that containers use right now: detaching does not free them.

        ``unpacked``: the other snapshotters that have some of them. All of one that does not answer counts as in use.
        """


class Attacher(Protocol):
    """The runtime's records of images."""

    @property
    def mode(self) -> str:
        """``proxy``, ``native`` or ``prepull``; empty until the runtime has answered once."""

    async def attach(self, bundle: Bundle, also: Collection[str] = (), beside: Beside = ALONE) -> Attached:
        """Make the images usable, also for the runtime handlers that use the snapshotters ``also``. Idempotent.

        ``beside`` is what else is on the node.
        """

    async def handlers(self) -> Handlers:
        """Runtime handlers that use other snapshotters, as they are configured now."""

    async def lost(self, chains: Collection[UnpackedChain]) -> frozenset[UnpackedChain]:
        """Those of the chains that their snapshotter does not have: someone has removed them."""

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle], had: Collection[str] = ()) -> None:
        """Remove the records, but for those that the node ``had`` before.

        A name that a bundle in ``keep`` has too, of several the first, means its image then. Containers keep running.
        """

    async def missing(self, names: Mapping[str, str]) -> frozenset[str]:
        """Those of the names that the runtime does not have, or has for something else (``Attached.images``).

        kubelet's image collection removes records, and a pull moves them.
        """


class Reporter(Protocol):
    async def report(self, status: NodeStatus, node: Node) -> None:
        """Write the status of this node's NodeImageCache."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    caches: Caches
    nodes: Nodes
    machine: Machine
    source: LayerSource
    attacher: Attacher
    reporter: Reporter
    state: NodeState
    clock: Clock
    metrics: Metrics
