"""Make a bundle's images usable in containerd without a pull, and remove them again.

For each image: documents into containerd's content store, the chain of snapshots through containerd's own API, the same
chain unpacked for runtime handlers that have another snapshotter, then the image records. A lease keeps the unfinished
work from containerd's collector, and expires if this process dies; what was unpacked stays for the next try. An image
is recorded only when all its layers are served, since kubelet would never pull it again. In prepull mode nothing is
served: images are unpacked into the snapshotter of containerd's own pulls. See
``docs/adr/0010-attach-without-pull.md``. It must not call our own snapshotter, nor start or configure anything.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from imagecache.clock import Clock
from imagecache.concurrency import finish_all, run_all
from imagecache.containerd import also_unpack, image_records
from imagecache.containerd.also_unpack import AlsoUnpacker
from imagecache.containerd.api import (
    ALONE,
    Asked,
    Attached,
    Beside,
    Containerd,
    Documents,
    Plugin,
    Session,
    UnpackedChain,
)
from imagecache.containerd.handlers import AUTO, Handlers, handlers_of
from imagecache.containerd.modes import Choice, choose, default_snapshotter
from imagecache.containerd.record_removal import RecordRemoval
from imagecache.containerd.reserved import ReservedNames
from imagecache.containerd.snapshot_chain import ChainPreparer
from imagecache.errors import ContainerdMisconfigured, ImageNotListed
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.manifest import parse_index
from imagecache.settings.choices import Mode
from imagecache.store.bundle_document import Bundle, ImageRecord

_CONFIRM_POLL = 0.02
"""Seconds. CRI has handled its events by then, so the first answer is nearly always the right one."""
_VISIBLE_POLL = 0.001
"""Seconds: CRI handles an event within a few milliseconds, and no event tells us when it has."""


@dataclass(frozen=True, slots=True)
class AttachSettings:
    namespace: str = image_records.CRI_NAMESPACE
    """Of containerd."""
    snapshotter: str = "imagecache"
    """Name of our proxy plugin in containerd's configuration."""
    mode: Mode = Mode.AUTO
    """PROXY, NATIVE or PREPULL; AUTO: the first or the second, as this containerd is configured."""
    allow_private_names: frozenset[str] = frozenset()
    """Namespaces in which private images are recorded although every pod there may then use them."""
    reserved: ReservedNames = field(default_factory=ReservedNames)
    """Images that get no record in CRI's namespace."""
    lease: int = 600
    """Seconds after which containerd drops what a killed attach has written."""
    visible: float = 2.0
    """Seconds to wait until CRI lists a new record."""
    also_unpack: tuple[str, ...] = (AUTO,)
    """Snapshotters that get the images too: AUTO, OFF or names (``handlers.Handlers``)."""


class _Withheld(enum.Enum):
    """Why an image gets no record."""

    PRIVATE = enum.auto()
    UNVERIFIED = enum.auto()
    RESERVED = enum.auto()


@dataclass
class _Done:
    """What one attach has done so far."""

    beside: Beside
    recorded: dict[str, str] = field(default_factory=dict)
    withheld: dict[_Withheld, list[str]] = field(default_factory=lambda: {why: [] for why in _Withheld})
    missed: list[str] = field(default_factory=list)
    pinned: list[str] = field(default_factory=list)
    """Names that stay what they are, since the node has pinned them."""
    had: list[str] = field(default_factory=list)
    """Names that the node had before."""
    listing: dict[str, Descriptor] = field(default_factory=dict)
    """Image ids that CRI has yet to handle."""
    usable: dict[str, ImageRecord] = field(default_factory=dict)
    """By a name of each image that CRI has to know."""


class NodeAttacher:
    """Attach and detach on one containerd. Both are idempotent; several may run at once, for different bundles."""

    def __init__(
        self,
        containerd: Containerd,
        documents: Documents,
        clock: Clock,
        settings: AttachSettings | None = None,
        *,
        unpacker: AlsoUnpacker | None = None,
    ) -> None:
        """Without an ``unpacker``, other snapshotters get nothing, and prepull mode can do nothing."""
        self._unpacker = unpacker
        self._containerd = containerd
        self._documents = documents
        self._clock = clock
        self._settings = settings or AttachSettings()

    async def attach(self, bundle: Bundle, also: Collection[str] = (), beside: Beside = ALONE) -> Attached:
        """Make the images usable.

        Args:
            bundle: whose images.
            also: the snapshotters that its cache asks for instead of the setting.
            beside: what else is on the node.

        Raises:
            ContainerdUnavailable, ContainerdMisconfigured, BlobNotFound, ImageNotListed; when something is unpacked:
            StoreError.
        """
        choice, handlers = await self._configured()
        done = _Done(beside)
        asked = [(bundle, also), *beside.others]
        if self._prepulls or any(handlers.unpacked(each) for _, each in asked):
            lease = self._session().leased(also_unpack.LEASE, owner=bundle.id)  # what was unpacked outlives a failure
        else:
            lease = self._session().leased(self._settings.lease)
        # an image after the other: their layers and documents overlap, and the second finds what the first has made
        async with lease as session:
            for image in bundle.images:
                wanted = _wanted(handlers, image, asked)
                if why := self._withheld(image):
                    await self._hold(session, image, wanted, handlers)
                    done.withheld[why].append(image.reference)
                elif await self._present(session, choice, image):
                    # before the record: it says "present" to pods of every runtime handler
                    await self._unpack(session, choice, image, wanted)
                    await self._record(session, image, done)
                else:
                    done.missed.append(image.reference)
        await run_all(
            self.give_up(bundle),  # an earlier try may have unpacked what is not asked for any more
            # records keep what they name, so the lease is not needed while CRI handles them
            *(self._until_listed(self._session(), *item) for item in done.listing.items()),
        )
        if self._in_cri and done.usable:
            await self._confirm(done.usable)
        return Attached(
            done.recorded,
            tuple(done.withheld[_Withheld.PRIVATE]),
            tuple(done.missed),
            unpacked=handlers.unpacked(also),
            left_out=handlers.left_out(also),
            handlers=handlers,
            unverified=tuple(done.withheld[_Withheld.UNVERIFIED]),
            reserved=tuple(done.withheld[_Withheld.RESERVED]),
            taken=taken_of(bundle, beside),
            had=tuple(done.had),
            pinned=tuple(done.pinned),
        )

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle] = (), had: Collection[str] = ()) -> tuple[str, ...]:
        """Delete the records that point at the bundle's images, but for those that the node ``had``; returns the names.

        A name that a bundle in ``keep`` (of several the first) has too stays, or comes to mean its image; one that the
        node had before means again what it meant then. Everything that a container runs on stays. The last deletion
        waits until containerd has released the snapshots.
        """
        await self._release(bundle, keep)
        session = self._session()
        await self.give_up(bundle)
        return await RecordRemoval(session, keep, had, self._is_reserved).remove(bundle)

    async def give_up(self, bundle: Bundle) -> None:
        """What attaches of the bundle have unpacked before they failed is containerd's to collect. Idempotent."""
        if self._unpacker is not None:
            await self._session().end_leases(bundle.id)

    async def lost(self, chains: Collection[UnpackedChain]) -> frozenset[UnpackedChain]:
        """Those of the chains that their snapshotter does not have. Raises ContainerdUnavailable."""
        snapshots = self._session().snapshots
        found = [await snapshots.stat(chain.snapshotter, chain.chain_id) for chain in chains]
        return frozenset(chain for chain, info in zip(chains, found, strict=True) if info is None)

    async def answers(self) -> bool:
        """Whether the runtime is a containerd: others know CRI alone. Raises ContainerdUnavailable."""
        try:
            await self._containerd.version()
        except ContainerdMisconfigured:
            return False
        return True

    async def choice(self) -> Choice:
        """The integration that this containerd is configured for."""
        return (await self._choice())[0]

    async def handlers(self) -> Handlers:
        """Runtime handlers with other snapshotters. Raises ContainerdUnavailable, ContainerdMisconfigured."""
        return (await self._configured())[1]

    async def _configured(self) -> tuple[Choice, Handlers]:
        (choice, plugins), found = await run_all(self._choice(), self._handler_snapshotters())
        if self._unpacker is None:
            return choice, Handlers()
        loaded = [plugin.id for plugin in plugins if not plugin.error]
        return choice, handlers_of(found, loaded, choice.snapshotter, self._settings.also_unpack)

    async def _choice(self) -> tuple[Choice, tuple[Plugin, ...]]:
        version, plugins = await run_all(self._containerd.version(), self._containerd.snapshotter_plugins())
        if self._prepulls:
            return default_snapshotter(await self._containerd.image_filesystem(), plugins), plugins
        return choose(version, plugins, self._settings.snapshotter, self._settings.mode), plugins

    async def _handler_snapshotters(self) -> dict[str, str]:
        asked = self._unpacker is not None and self._in_cri
        return await self._containerd.handler_snapshotters() if asked else {}

    def _session(self) -> Session:
        return self._containerd.session(self._settings.namespace)

    @property
    def _prepulls(self) -> bool:
        return self._settings.mode is Mode.PREPULL

    @property
    def _in_cri(self) -> bool:
        return self._settings.namespace == image_records.CRI_NAMESPACE

    def _withheld(self, image: ImageRecord) -> _Withheld | None:
        """In CRI's namespace a record means "present" to every pod, with or without credentials.

        And it says what an image's name means: nobody who was on the way to its registry may say that, and of some
        names nobody but the registry.
        """
        if not self._in_cri:
            return None
        if self._is_reserved(image):
            return _Withheld.RESERVED
        if not image.verified:
            return _Withheld.UNVERIFIED
        allowed = self._settings.namespace in self._settings.allow_private_names
        return _Withheld.PRIVATE if image.private and not allowed else None

    def _is_reserved(self, image: ImageRecord) -> bool:
        return self._in_cri and image.name in self._settings.reserved

    async def _present(self, session: Session, choice: Choice, image: ImageRecord) -> bool:
        """Documents and snapshots, concurrently: neither needs the other. False when a layer cannot be served."""
        documents = self._documents_of(image, choice.snapshotter)
        writes = [session.content.write(body, labels) for body, labels in documents]
        if self._prepulls:  # the chain is unpacked with those of other snapshotters, so that a tar is read once
            await finish_all(*writes)
            return self._unpacker is not None
        chain = ChainPreparer(session.snapshots, choice, self._clock).prepare(image)
        return (await finish_all(chain, *writes))[0] is True

    async def _unpack(self, session: Session, choice: Choice, image: ImageRecord, snapshotters: frozenset[str]) -> None:
        """Into these snapshotters, and no longer into those that the image was unpacked into before."""
        if self._unpacker is None:
            return
        await self._unpacker.unpack(session, image, snapshotters | ({choice.snapshotter} if self._prepulls else set()))
        config = image.config.digest
        changes = image_records.unpacked_labels(image, await session.content.labels(config) or {}, snapshotters)
        if changes:
            await session.content.write(self._documents.read(config), changes)

    async def _hold(self, session: Session, image: ImageRecord, wanted: frozenset[str], handlers: Handlers) -> None:
        """Of one that is withheld: the pull that a pod makes fetches no layer, so other snapshotters need it too."""
        if self._unpacker is not None:
            await self._unpacker.hold(session, image, wanted)
            await self._unpacker.release(session, image, handlers.loaded - wanted)

    async def _release(self, bundle: Bundle, keep: Sequence[Bundle]) -> None:
        """Let go of what ``_hold`` has kept, unless a bundle in ``keep`` has it too."""
        kept = {image.layers[-1].chain_id for other in keep for image in other.images if image.layers}
        held = [
            image
            for image in bundle.images
            # whatever is allowed by now: it may have been withheld when it was attached
            if image.layers and image.layers[-1].chain_id not in kept
        ]
        if self._unpacker is None or not held:
            return
        names = [plugin.id for plugin in await self._containerd.snapshotter_plugins() if not plugin.error]
        if any([await self._unpacker.release(self._session(), image, names) for image in held]):
            async with self._session().leased(self._settings.lease, sync=True):
                pass  # a lease that keeps nothing: its end waits for the collection

    def _documents_of(self, image: ImageRecord, snapshotter: str) -> list[tuple[bytes, dict[str, str]]]:
        """The original documents with the labels that a pull gives them."""
        documents = [
            (self._documents.read(image.config.digest), image_records.config_labels(image, snapshotter)),
            (self._documents.read(image.manifest.digest), image_records.manifest_labels(image)),
        ]
        for index in image.indexes:
            body = self._documents.read(index.digest)
            documents.append((body, image_records.index_labels(image, parse_index(body, index.media_type))))
        return documents

    async def _record(self, session: Session, image: ImageRecord, done: _Done) -> None:
        """Make the records.

        CRI handles records one event after the other, and labels those that lack its label. So the record of the id
        is written last and without the label: once it has it, CRI knows the names before it too.
        """
        names = [name for name in image_records.names(image) if name not in done.beside.taken]
        if self._in_cri:
            names = await self._record_for_cri(session, image, names, done)
        else:
            served = image_records.SERVED
            await run_all(*(session.images.put(name, image.target, {}, created=served) for name in names))
        done.recorded |= dict.fromkeys(names, str(image.target.digest))
        done.usable[names[0]] = image

    async def _record_for_cri(
        self, session: Session, image: ImageRecord, wanted: Sequence[str], done: _Done
    ) -> list[str]:
        image_id = image_records.image_id(image)
        known, *found = await run_all(*map(session.images.get, (image_id, *wanted)))
        names = {}
        for name, record in zip((image_id, *wanted), (known, *found), strict=True):
            if record is not None and not image_records.is_ours(record) and name not in done.beside.made:
                done.had.append(name)
        for name, record in zip(wanted, found, strict=True):
            if record is not None and record.target != image.target.digest and image_records.is_pinned(record):
                done.pinned.append(name)
            else:
                names[name] = image_records.labels_of(record, image)
        # in prepull mode its disk is kubelet's to free
        pin = {} if self._prepulls else image_records.PINNED
        # one pinned record pins all names of an image, and one that the node had before is kubelet's to collect
        created = (pin if known is None or pin.items() <= known.labels.items() else {}) | image_records.SERVED
        changed = await run_all(
            *(session.images.put(name, image.target, labels, created=created) for name, labels in names.items())
        )
        # an id that CRI knows already would not be labelled again, and need not be waited for
        if any(changed) or known is None:
            unlabelled = dict.fromkeys(image_records.CRI_LABELS, "")
            await session.images.put(image_id, image.target, unlabelled, created=created)
            done.listing[image_id] = image.target
        return [*names, image_id]

    async def _until_listed(self, session: Session, name: str, target: Descriptor) -> None:
        """Wait until CRI has labelled the record, and so knows those before it. Without CRI we label it ourselves."""
        deadline = self._clock.monotonic() + self._settings.visible
        while self._clock.monotonic() < deadline:
            found = await session.images.get(name)
            if found is None or image_records.CRI_LABELS.items() <= found.labels.items():
                return
            await asyncio.sleep(_VISIBLE_POLL)
        await session.images.put(name, target, image_records.CRI_LABELS)

    async def _confirm(self, usable: Mapping[str, ImageRecord]) -> None:
        """What CRI answers counts, not what was written: it has images of its own platform alone, and its own view."""
        deadline = self._clock.monotonic() + self._settings.visible
        while (found := await self._containerd.cri_images(usable)) is not None:
            wrong = [name for name, image in usable.items() if found.get(name) != image_records.image_id(image)]
            if not wrong:
                return
            if self._clock.monotonic() >= deadline:
                raise _not_listed(usable[wrong[0]], found.get(wrong[0]))
            await asyncio.sleep(_CONFIRM_POLL)


def _wanted(handlers: Handlers, image: ImageRecord, asked: Sequence[Asked]) -> frozenset[str]:
    """The snapshotters that some bundle with this image asks for: they share its config, whose labels say so."""
    config = image.config.digest
    having = [also for bundle, also in asked if any(each.config.digest == config for each in bundle.images)]
    return frozenset(name for also in having for name in handlers.unpacked(also))


def _not_listed(image: ImageRecord, other: str | None) -> ImageNotListed:
    said = f"CRI has the image {other} under this name" if other else "CRI does not have it"
    return ImageNotListed(
        f"{said} after {image_records.image_id(image)} for {image.platform} was attached",
        hint="containerd's log says why; is this the platform of its default?" if not other else "attach it again",
        image=image.reference,
    )


def taken_of(bundle: Bundle, beside: Beside) -> dict[str, str]:
    """Names of its images that another ImageCache owns, and its name."""
    names = (image_records.tag_name(image) for image in bundle.images)
    return {name: beside.taken[name] for name in names if name in beside.taken}
