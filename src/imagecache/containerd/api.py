"""The part of containerd's API that attach, detach, mode choice and the page-cache trim use, as ports.

``Containerd`` is one running containerd; a ``Session`` is bound to one of its namespaces, and to a lease if asked. The
fake is ``testkit.containerd``. Every method raises ContainerdUnavailable when containerd does not answer.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from imagecache.containerd.handlers import Handlers
from imagecache.digest import ChainID, Digest
from imagecache.oci.descriptor import Descriptor
from imagecache.store.bundle_document import Bundle

SNAPSHOTTERS = "io.containerd.snapshotter.v1"
"""Plugin type of snapshotters."""


class Documents(Protocol):
    """Original indexes, manifests and configs of the store."""

    def read(self, digest: Digest) -> bytes:
        """The whole document, verified. Raises BlobNotFound, StoreCorrupt."""


Asked = tuple[Bundle, Collection[str]]
"""A bundle, and the snapshotters that its cache asks for instead of the setting; nothing: the setting."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What an attach has to know of other bundles of the node, and of earlier attaches."""

    others: Sequence[Asked] = ()
    """Attached bundles, with what they ask for: what they share with this one is also unpacked as they ask."""
    taken: Mapping[str, str] = field(default_factory=dict)
    """Names by tag that another ImageCache owns, and its name: they stay what they are."""
    made: Collection[str] = ()
    """Names of records that are ours, whatever a pull has made of their labels since."""


ALONE = Beside()


@dataclass(frozen=True, slots=True)
class Attached:
    """What attach did, in every mode."""

    images: Mapping[str, str] = field(default_factory=dict)
    """Names that the runtime has because of it, and what they name: the digest of a record of containerd, the id of an
    image that was pulled."""
    withheld: tuple[str, ...] = ()
    """Private images, as the user wrote them: layers are served when a pod pulls them, no record was made."""
    missed: tuple[str, ...] = ()
    """Images that this mode cannot attach, as the user wrote them; a pull fetches only what is missing."""
    foreign: tuple[str, ...] = ()
    """Images that are for other platforms than this machine's alone, as the user wrote them."""
    unpacked: frozenset[str] = frozenset()
    """Snapshotters of other runtime handlers that have the images too."""
    left_out: tuple[str, ...] = ()
    """Runtime handlers whose pods cannot start the images: their snapshotters do not have them."""
    handlers: Handlers = field(default_factory=Handlers)
    """Of the runtime, as they were then."""
    unverified: tuple[str, ...] = ()
    """Images from a registry that nobody has verified, as the user wrote them: withheld as private ones are."""
    reserved: tuple[str, ...] = ()
    """Images whose names no cache may record (``reserved.ReservedNames``), as the user wrote them: withheld, too."""
    taken: Mapping[str, str] = field(default_factory=dict)
    """Names by tag that another ImageCache owns on this node, and its name: these images are recorded by digest."""
    pinned: tuple[str, ...] = ()
    """Names by tag of images that the node itself has pinned, so that they stay what they are."""

    had: tuple[str, ...] = ()
    """Names that the node had before, for the same image or another one."""

    @property
    def names(self) -> frozenset[str]:
        """That its images have, or would have if no other ImageCache owned them."""
        return frozenset((*self.images, *self.taken))


@dataclass(frozen=True, slots=True)
class UnpackedChain:
    """A layer of an image, unpacked into a snapshotter of another runtime handler on top of those below it."""

    snapshotter: str
    chain_id: ChainID


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image record of containerd."""

    name: str
    target: Digest
    labels: Mapping[str, str] = field(default_factory=dict)
    media_type: str = ""
    """Of the target, as its size."""
    size: int = 0

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=self.media_type, digest=self.target, size=self.size)


@dataclass(frozen=True, slots=True)
class SnapshotMount:
    kind: str
    source: str
    options: tuple[str, ...]
    target: str = ""
    """Path inside the container's root; empty for the root itself."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    name: str
    parent: str
    labels: Mapping[str, str]
    committed: bool = True
    """False for the writable layer of a container and for a layer that is being unpacked."""
    created: dt.datetime | None = None
    """When it was committed; of one that is not, when it was prepared."""


@dataclass(frozen=True, slots=True)
class SnapshotKey:
    """An active snapshot of one snapshotter, and its parent."""

    snapshotter: str
    key: str
    parent: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin as containerd's introspection service lists it."""

    kind: str
    id: str
    exports: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    error: str = ""
    """Why it was not loaded; empty when it was."""


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    id: str
    snapshotter: str
    snapshot_key: str
    image: str = ""
    """Name of the record of its image."""
    labels: Mapping[str, str] = field(default_factory=dict)
    created: dt.datetime | None = None
    cri: bytes = field(default=b"", repr=False)
    """What CRI has recorded of it, as JSON (``pod_containers``): its environment too, so for no log; empty: nothing."""


class ContentStore(Protocol):
    async def write(self, data: bytes, labels: Mapping[str, str]) -> Digest:
        """Store a document, or add the labels to it when it exists."""

    async def write_from(self, pieces: AsyncIterator[bytes], content: Descriptor) -> None:
        """Store content whose digest and size are known. ``pieces`` is not read to its end when it exists.

        Raises what ``pieces`` raises: nothing is stored then.
        """

    async def labels(self, digest: Digest) -> dict[str, str] | None:
        """None when the content does not exist."""

    async def read(self, digest: Digest) -> bytes | None:
        """A whole document, not verified; None when the content does not exist."""


class ImageStore(Protocol):
    async def get(self, name: str) -> StoredImage | None: ...

    async def with_target(self, target: Digest) -> list[StoredImage]:
        """Every record that points at ``target``, by name."""

    async def all(self) -> list[StoredImage]:
        """Every record, by name."""

    async def put(
        self, name: str, target: Descriptor, labels: Mapping[str, str], *, created: Mapping[str, str] = {}
    ) -> bool:
        """Create the record, or point it at ``target`` and add the labels; an empty value removes a label.

        Only a record that did not exist gets the labels in ``created``. Returns whether anything changed.
        """

    async def touch(self, name: str) -> None:
        """Write the record as it is, so that those who follow containerd's events look at it again. Idempotent."""

    async def delete(self, name: str, target: Digest, *, sync: bool = False) -> bool:
        """Delete the record if it points at ``target``; ``sync`` waits for the collection. Returns whether it did."""


class Snapshots(Protocol):
    async def prepare(self, snapshot: SnapshotKey) -> tuple[SnapshotMount, ...] | None:
        """None: it exists. With the label ``containerd.io/snapshot.ref`` that is the committed layer, else the key."""

    async def commit(self, snapshot: SnapshotKey, name: str) -> bool:
        """Commit the key as ``name``, on top of its parent (containerd 2.2 and later). False: the name exists."""

    async def remove(self, snapshotter: str, key: str) -> None:
        """Idempotent."""

    async def stat(self, snapshotter: str, name: str) -> SnapshotInfo | None: ...

    async def keep(self, snapshotter: str, name: str) -> None:
        """Put a snapshot that exists under the session's lease, which 1.x does not do. Raises SnapshotNotFound."""

    async def label(self, snapshotter: str, name: str, labels: Mapping[str, str]) -> None:
        """Add labels to a snapshot; an empty value removes one. Raises SnapshotNotFound."""

    def list(self, snapshotter: str) -> AsyncIterator[SnapshotInfo]:
        """Every snapshot that this namespace has in the snapshotter."""


class Session(Protocol):
    """containerd in one namespace."""

    @property
    def content(self) -> ContentStore: ...

    @property
    def images(self) -> ImageStore: ...

    @property
    def snapshots(self) -> Snapshots: ...

    def leased(self, seconds: int, *, sync: bool = False, owner: str = "") -> AbstractAsyncContextManager[Session]:
        """The same namespace under a lease: nothing that is written in the block is collected before it ends.

        containerd drops the lease after ``seconds``, in case this process dies. ``sync``: the end of the block waits
        until what only this lease has kept is collected. ``owner``, of one block at a time: when the block fails, what
        it has written stays for the next one of the same owner, which has at least half of ``seconds``.
        """

    async def end_leases(self, owner: str = "") -> None:
        """Drop the leases that blocks of ``owner``, and blocks in them, have left, and wait for the collection.

        Empty: of all owners, those of blocks that run too.
        """

    async def apply(self, tar: Descriptor, mounts: Sequence[SnapshotMount]) -> Digest:
        """Unpack a layer of the content store onto a prepared snapshot; returns the digest of what was unpacked.

        Raises NotFound: the content does not exist.
        """

    async def container(self, container_id: str) -> ContainerRecord | None: ...


@dataclass(frozen=True, slots=True)
class TaskStarted:
    namespace: str
    container_id: str


class Containerd(Protocol):
    """One running containerd."""

    def session(self, namespace: str) -> Session: ...

    async def version(self) -> str:
        """``1.6.20``, without a leading v."""

    async def snapshotter_plugins(self) -> tuple[Plugin, ...]:
        """The snapshotter plugins, including those that failed to load."""

    async def handler_snapshotters(self) -> dict[str, str]:
        """CRI's runtime handlers that have a snapshotter of their own, and its name; empty where CRI does not run."""

    async def image_filesystem(self) -> str:
        """Directory of the snapshotter that CRI unpacks images into."""

    async def cri_images(self, names: Collection[str]) -> Mapping[str, str] | None:
        """Ids of the images that CRI has under these names, by name. None: CRI does not run."""

    async def namespaces(self) -> tuple[str, ...]: ...

    def task_starts(self) -> AsyncIterator[TaskStarted]:
        """Container starts of all namespaces from now on. Raises ContainerdUnavailable when containerd stops."""
