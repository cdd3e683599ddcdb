"""Make a bundle's images usable in containerd without a pull, and remove them again.

For each image: documents into containerd's content store, the chain of snapshots through containerd's own API, then the
image records. A lease keeps the unfinished work from containerd's collector, and expires if this process dies. An image
is recorded only when all its layers are served, since kubelet would never pull it again. See
``docs/adr/0010-attach-without-pull.md``. It must not call our own snapshotter, nor start or configure anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from imagecache.clock import Clock
from imagecache.concurrency import finish_all, run_all
from imagecache.containerd import image_records
from imagecache.containerd.api import Attached, Containerd, Documents, Session
from imagecache.containerd.modes import Choice, choose
from imagecache.containerd.snapshot_chain import ChainPreparer
from imagecache.digest import Digest
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.manifest import parse_index
from imagecache.settings.table import Mode
from imagecache.store.bundle_document import Bundle, ImageRecord

_VISIBLE_POLL = 0.001
"""Seconds: CRI handles an event within a few milliseconds, and no event tells us when it has."""


@dataclass(frozen=True, slots=True)
class AttachSettings:
    namespace: str = image_records.CRI_NAMESPACE
    """Of containerd."""
    snapshotter: str = "imagecache"
    """Name of our proxy plugin in containerd's configuration."""
    mode: Mode = Mode.AUTO
    """PROXY or NATIVE; any other: what this containerd is configured for."""
    allow_private_names: frozenset[str] = frozenset()
    """Namespaces in which private images are recorded although every pod there may then use them."""
    lease: int = 600
    """Seconds after which containerd drops what a killed attach has written."""
    visible: float = 2.0
    """Seconds to wait until CRI lists a new record."""


class NodeAttacher:
    """Attach and detach on one containerd. Both are idempotent; several attachers may run at once."""

    def __init__(
        self, containerd: Containerd, documents: Documents, clock: Clock, settings: AttachSettings | None = None
    ) -> None:
        self._containerd = containerd
        self._documents = documents
        self._clock = clock
        self._settings = settings or AttachSettings()

    async def attach(self, bundle: Bundle) -> Attached:
        """Make the images usable. Raises ContainerdUnavailable, ContainerdMisconfigured, BlobNotFound."""
        choice = await self.choice()
        recorded: dict[str, None] = {}
        withheld: list[str] = []
        missed: list[str] = []
        listing: dict[str, Descriptor] = {}
        # an image after the other: their layers and documents overlap, and the second finds what the first has made
        async with self._session().leased(self._settings.lease) as session:
            for image in bundle.images:
                if self._is_withheld(image):
                    withheld.append(image.reference)
                elif await self._present(session, choice, image):
                    recorded.update(dict.fromkeys(await self._record(session, image, listing)))
                else:
                    missed.append(image.reference)
        # records keep what they name, so the lease is not needed while CRI handles them
        await run_all(*(self._until_listed(self._session(), *item) for item in listing.items()))
        return Attached(tuple(recorded), tuple(withheld), tuple(missed))

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle] = ()) -> tuple[str, ...]:
        """Delete the records that still point at the bundle's images; returns their names.

        Names that a bundle in ``keep`` has too stay, and so does everything that a container runs on. The last
        deletion waits until containerd has released the snapshots.
        """
        session = self._session()
        kept = {
            name
            for other in keep
            for image in other.images
            for name in (*image_records.names(image), image_records.image_id(image))
        }
        # ordered, so that names go before the id: CRI would otherwise report an image without a name
        targets: dict[str, Digest] = {}
        for image in bundle.images:
            targets |= dict.fromkeys(await self._removable(session, image, kept), image.target.digest)
        removed = []
        for number, (name, target) in enumerate(targets.items(), start=1):
            if await session.images.delete(name, target, sync=number == len(targets)):
                removed.append(name)
        return tuple(removed)

    async def choice(self) -> Choice:
        """The integration that this containerd is configured for."""
        version, plugins = await run_all(self._containerd.version(), self._containerd.snapshotter_plugins())
        return choose(version, plugins, self._settings.snapshotter, self._settings.mode)

    def _session(self) -> Session:
        return self._containerd.session(self._settings.namespace)

    @property
    def _in_cri(self) -> bool:
        return self._settings.namespace == image_records.CRI_NAMESPACE

    def _is_withheld(self, image: ImageRecord) -> bool:
        """In CRI's namespace a record means "present" to every pod, with or without credentials."""
        return image.private and self._in_cri and self._settings.namespace not in self._settings.allow_private_names

    async def _present(self, session: Session, choice: Choice, image: ImageRecord) -> bool:
        """Documents and snapshots, concurrently: neither needs the other. False when a layer cannot be served."""
        documents = self._documents_of(image, choice.snapshotter)
        writes = [session.content.write(body, labels) for body, labels in documents]
        chain = ChainPreparer(session.snapshots, choice, self._clock).prepare(image)
        return (await finish_all(chain, *writes))[0] is True

    def _documents_of(self, image: ImageRecord, snapshotter: str) -> list[tuple[bytes, dict[str, str]]]:
        """The original documents with the labels that a pull gives them."""
        documents = [
            (self._documents.read(image.config.digest), image_records.config_labels(image, snapshotter)),
            (self._documents.read(image.manifest.digest), image_records.manifest_labels(image)),
        ]
        if image.index is not None:
            body = self._documents.read(image.index.digest)
            documents.append((body, image_records.index_labels(image, parse_index(body, image.index.media_type))))
        return documents

    async def _record(self, session: Session, image: ImageRecord, listing: dict[str, Descriptor]) -> tuple[str, ...]:
        """Make the records; an image id that CRI has yet to handle is added to ``listing``.

        CRI handles records one event after the other, and labels those that lack its label. So the record of the id
        is written last and without the label: once it has it, CRI knows the names before it too.
        """
        names = image_records.names(image)
        if not self._in_cri:
            await run_all(*(session.images.put(name, image.target, {}) for name in names))
            return names
        image_id = image_records.image_id(image)
        known, labels, pinned = await session.images.get(image_id), image_records.CRI_LABELS, image_records.PINNED
        # one pinned record pins all names of an image, and one that the node had before is kubelet's to collect
        created = pinned if known is None or pinned.items() <= known.labels.items() else {}
        changed = await run_all(*(session.images.put(name, image.target, labels, created=created) for name in names))
        # an id that CRI knows already would not be labelled again, and need not be waited for
        if any(changed) or known is None:
            await session.images.put(image_id, image.target, dict.fromkeys(labels, ""), created=created)
            listing[image_id] = image.target
        return (*names, image_id)

    async def _until_listed(self, session: Session, name: str, target: Descriptor) -> None:
        """Wait until CRI has labelled the record, and so knows those before it. Without CRI we label it ourselves."""
        deadline = self._clock.monotonic() + self._settings.visible
        while self._clock.monotonic() < deadline:
            found = await session.images.get(name)
            if found is None or image_records.CRI_LABELS.items() <= found.labels.items():
                return
            await asyncio.sleep(_VISIBLE_POLL)
        await session.images.put(name, target, image_records.CRI_LABELS)

    async def _removable(self, session: Session, image: ImageRecord, kept: set[str]) -> list[str]:
        """Names of ours that point at the image; the id too, unless a name that is not ours still points there."""
        present = {record.name for record in await session.images.with_target(image.target.digest)}
        ours = [name for name in image_records.names(image) if name in present and name not in kept]
        image_id = image_records.image_id(image)
        if image_id in present - kept and present == {*ours, image_id}:
            ours.append(image_id)
        return ours
