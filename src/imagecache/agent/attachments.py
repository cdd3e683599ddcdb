"""The bundles whose images the runtime has because of this agent, and what of it someone else removed.

A bundle is written into the node's state before its records are made, and erased after they are gone: wherever the
agent is killed, the next one knows what to detach. It must not decide what is attached.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Container, Mapping
from weakref import WeakValueDictionary

from imagecache.agent import names
from imagecache.agent.budget import Part, unpacked_sizes
from imagecache.agent.dependencies import Attacher
from imagecache.agent.failures import Removals
from imagecache.agent.state import Known, NodeState
from imagecache.api.assignment import Cache
from imagecache.clock import Clock
from imagecache.containerd.api import Attached, Beside, UnpackedChain
from imagecache.containerd.handlers import Handlers
from imagecache.errors import HostError
from imagecache.store.bundle_document import Bundle
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

_log = get_logger(__name__)
_LOOK = 5.0
"""Seconds that a round waits for a snapshotter that hangs."""


class Attachments:
    """For one event loop."""

    def __init__(self, attacher: Attacher, state: NodeState, clock: Clock, metrics: Metrics, *, at_once: int) -> None:
        """``at_once``: attaches that run side by side, and as many that also unpack; the others wait.

        Detaches run one after the other.
        """
        self.attached: dict[str, Attached] = {}
        """By bundle id. Empty after a start: attaching again is how an agent finds out what is missing."""
        self._assigned: frozenset[str] = frozenset()
        """Ids of the bundles that belong on this node."""
        self.handlers = Handlers()
        """As they were configured when somebody looked last."""
        self.removals = Removals()
        self._attacher = attacher
        self._state = state
        self._clock = clock
        self._metrics = metrics
        self._slots, self._unpacking = asyncio.Semaphore(at_once), asyncio.Semaphore(at_once)
        self._detaching = asyncio.Semaphore()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._checked = self._looked = float("-inf")

    async def attach(self, bundle: Bundle, cache: Cache) -> Attached:
        """Make the images usable; ``cache`` is the ImageCache that the bundle is for."""
        # another snapshotter that hangs holds up only those who wait for it
        slots = self._unpacking if self.handlers.unpacked(cache.also_unpack) else self._slots
        async with self._turn(bundle, slots):
            # before the records: one that no state remembers would never be removed
            await asyncio.to_thread(
                self._state.write,
                bundle,
                [cache.name],
                cache.also_unpack,
                direct_io=cache.direct_io,
                rank=_rank(cache),
            )
            start = self._clock.monotonic()
            others, taken = self._state.asked(without=bundle.id), self._taken(bundle.id)
            beside = Beside(others, taken, self._state.all_made())
            attached = await self._attacher.attach(bundle, cache.also_unpack, beside)
            self._metrics.attach_seconds.observe(self._clock.monotonic() - start)
            self.attached[bundle.id] = attached
            # with its names locked: who shares one must see what this one claims
            await asyncio.to_thread(self._state.made, bundle.id, attached)
        self.handlers = attached.handlers
        self._count()
        return attached

    def _taken(self, bundle_id: str) -> dict[str, str]:
        """By the bundles that are assigned to this node: others go, and own nothing any more."""
        staying = self._assigned | {bundle_id}
        return names.taken(bundle_id, [claim for claim in self._state.claims() if claim.document.id in staying])

    def document(self, bundle_id: str) -> Bundle | None:
        """Of the bundle of this id that is attached, or was about to be."""
        return self._state.documents.get(bundle_id)

    async def look(self, interval: float) -> None:
        """Find out how the runtime handlers are configured now, once per interval. Raises HostError."""
        now = self._clock.monotonic()
        if now - self._looked >= interval:
            self.handlers = await self._attacher.handlers()
            self._looked = now

    def as_asked(self, caches: Mapping[str, Cache]) -> frozenset[str]:
        """Ids of attached bundles, without those whose cache, by id, asks for something else by now."""
        known, self._assigned = self._state.known(), frozenset(caches)
        return frozenset(
            name
            for name, attached in self.attached.items()
            if name not in caches or name not in known or self._is_as_asked(attached, known[name], caches[name])
        )

    def _is_as_asked(self, attached: Attached, known: Known, cache: Cache) -> bool:
        return (
            attached.unpacked == self.handlers.unpacked(cache.also_unpack)
            and (known.direct_io, known.rank) == (cache.direct_io, _rank(cache))
            and attached.taken == self._taken(cache.id)
        )

    async def begun(
        self, caches: Mapping[str, Cache], attached: Collection[str], documents: Mapping[str, Bundle]
    ) -> dict[Part, int]:
        """Bytes of what attaches of these caches, by bundle id, have unpacked without being ``attached`` yet.

        Nothing while the runtime does not answer.
        """
        known, sizes = self._state.known(), dict[Part, int]()
        for name in caches.keys() & known.keys() & documents.keys() - set(attached):
            wanted = self.handlers.unpacked(caches[name].also_unpack) - known[name].unpacked
            sizes |= unpacked_sizes(documents[name], wanted)
        lost = await self._lost({part for part in sizes if isinstance(part, UnpackedChain)}, unknown=True)
        return {chain: size for chain, size in sizes.items() if chain not in lost}

    async def _lost(self, chains: Collection[UnpackedChain], *, unknown: bool = False) -> frozenset[UnpackedChain]:
        """Those that their snapshotter does not have; with ``unknown``, those of one that does not answer too."""
        try:
            async with asyncio.timeout(_LOOK):
                return await self._attacher.lost(chains)
        except (HostError, TimeoutError):  # an attach would fail for the same reason, and say so
            return frozenset(chains if unknown else ())

    async def detach(self, bundle: Bundle, staying: Callable[[], Collection[str]]) -> None:
        """Take the records back, except those that a bundle in ``staying`` (asked when it is our turn) has too."""
        async with self._turn(bundle, self._detaching):
            self.attached.pop(bundle.id, None)  # before the runtime is asked: half removed is not attached
            claims, ids = names.by_rank(self._state.claims()), staying()
            keep = [each.document for each in claims if each.document.id in ids]
            await self._attacher.detach(bundle, keep, self._state.had(bundle.id))
        self._count()

    @contextlib.asynccontextmanager
    async def _turn(self, bundle: Bundle, slots: asyncio.Semaphore) -> AsyncIterator[None]:
        """One after the other for bundles that share names or images: each must see what the other has made."""
        async with contextlib.AsyncExitStack() as stack:
            shared = {key for image in bundle.images for key in (image.name, str(image.config.digest))}
            for key in sorted(shared):  # in one order, so that no two wait for each other
                await stack.enter_async_context(self._locks.setdefault(key, asyncio.Lock()))
            await stack.enter_async_context(slots)
            yield

    async def forget(self, bundle_id: str) -> None:
        """Nothing of the bundle is left on this node. Raises StoreError, StoreDenied."""
        bundle, known = self._state.documents.get(bundle_id), self._state.known().get(bundle_id, Known())
        await asyncio.to_thread(self._state.erase, bundle_id)
        if bundle is None:
            return
        configs = {image.config.digest for image in bundle.images}
        for name, document in self._state.documents.items():
            shared = any(image.config.digest in configs for image in document.images)
            if shared and name in self.attached and known.unpacked - self.attached[name].unpacked:
                del self.attached[name]  # attached again, it lets go of what only this bundle has asked for

    async def check(self, interval: float, busy: Callable[[], Container[str]]) -> None:
        """Find records and snapshots that someone else removed, once per interval.

        Their bundles no longer count as attached. Raises ContainerdUnavailable.
        """
        now = self._clock.monotonic()
        if now - self._checked < interval or not self.attached:
            return
        self._checked = now  # also after a failure: a snapshotter that hangs must not hold up every round
        documents = self._state.documents
        chains = {name: _tops(documents[name], attached) for name, attached in self.attached.items()}
        wanted = {name: self._owned(name, attached) for name, attached in self.attached.items()}
        missing = await self._attacher.missing(dict(item for each in wanted.values() for item in each.items()))
        lost = await self._lost({chain for each in chains.values() for chain in each})
        for bundle_id in self.attached.keys() & wanted.keys():
            gone = sorted(missing.intersection(wanted[bundle_id]))
            snapshotters = sorted({chain.snapshotter for chain in lost & chains.get(bundle_id, frozenset())})
            if (gone or snapshotters) and bundle_id not in busy():  # a job that runs changes them itself
                del self.attached[bundle_id]
                self.removals.note(bundle_id, now)
                _log.warning(
                    "what was attached was removed from the runtime",
                    bundle=bundle_id,
                    names=gone,
                    snapshotters=snapshotters,
                )
        self._count()

    def _owned(self, bundle_id: str, attached: Attached) -> dict[str, str]:
        """Names that are to mean the bundle's images."""
        taken = self._taken(bundle_id)
        return {name: target for name, target in attached.images.items() if name not in taken}

    def _count(self) -> None:
        self._metrics.attached_images.set(len({name for each in self.attached.values() for name in each.images}))


def _rank(cache: Cache) -> names.Rank:
    return -cache.priority, cache.created, cache.name


def _tops(bundle: Bundle, attached: Attached) -> frozenset[UnpackedChain]:
    """The uppermost snapshots of the images in other snapshotters: they keep those below."""
    return frozenset(
        UnpackedChain(snapshotter, image.layers[-1].chain_id)
        for image in bundle.images
        if image.layers and image.reference not in attached.missed
        for snapshotter in attached.unpacked
    )
