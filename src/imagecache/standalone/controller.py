"""The verbs on ImageCaches of this host: create, attach, detach, delete, expire, get, describe.

Every change of an object happens under its lock, and in an order that a crash at any point leaves something that the
same verb finishes. It must not print, and must not construct what it uses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from imagecache.api import building, events, phases
from imagecache.api.effective_spec import EffectiveSpec, effective_spec
from imagecache.api.types import Event, ImageCache, NodeCounts, Phase
from imagecache.builder.build_events import BuildEvent
from imagecache.clock import Clock
from imagecache.containerd.api import Attached
from imagecache.errors import HostError, ImageCacheError, InvalidInput, NotFound, StoreBusy
from imagecache.standalone import creation
from imagecache.standalone.describe import Description, describe
from imagecache.standalone.events import Accepted, Built, CreateEvent
from imagecache.standalone.objects import ObjectFiles
from imagecache.standalone.ports import Attacher, Builder, Bundles, Collector
from imagecache.standalone.recorder import INTERVAL, Recorder, with_event
from imagecache.store.collect import Collected
from imagecache.store.model import Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything the controller works with."""

    objects: ObjectFiles
    builder: Builder
    bundles: Bundles
    collector: Collector
    attacher: Attacher
    clock: Clock
    random: random.Random
    """Ids come from it: ``random.SystemRandom()``, or a seeded one in tests."""
    architecture: str
    """GOARCH of this host, for caches that name none."""
    record_interval: float = INTERVAL
    """Seconds between two writes of a progress."""


@dataclass(frozen=True, slots=True)
class Deleted:
    cache: ImageCache
    detached: tuple[str, ...]
    """Names taken out of containerd."""
    collected: Collected
    kept: tuple[tuple[str, tuple[str, ...]], ...]
    """Layer images of the cache that stay, each with its reasons."""


@dataclass(frozen=True, slots=True)
class Expired:
    deleted: tuple[Deleted, ...]
    failed: tuple[tuple[str, ImageCacheError], ...]
    """Names of caches that are still there, and why; tried again next time."""


def _ignore(event: CreateEvent) -> None:
    del event


class Controller:
    def __init__(self, world: World) -> None:
        self._world = world
        self._objects = world.objects

    def get(self, name: str) -> ImageCache:
        """Raises NotFound, StoreError."""
        return self._objects.get(name)

    def list(self) -> Sequence[ImageCache]:
        """Every object, by name. Raises StoreError."""
        return self._objects.all()

    def describe(self, name: str) -> Description:
        """Raises NotFound, StoreError."""
        cache = self._objects.get(name)
        return describe(cache, self._objects.all(), self._world.bundles, busy=self._objects.busy(name))

    async def create(
        self, cache: ImageCache, *, attach: bool = True, watch: Callable[[CreateEvent], None] = _ignore
    ) -> ImageCache:
        """Build and attach. A cache that failed or was interrupted goes on, with the same id and its downloads.

        Raises InvalidManifest before anything is written, AlreadyExists for one that is Ready, StoreBusy while another
        process builds it; whatever the build raises is also in the status. When only attaching fails, the cache is
        Ready and the error says so. A cancellation leaves a resumable state and passes on.
        """
        wanted = effective_spec(cache, architecture=self._world.architecture)
        with self._objects.locked(cache.name):
            existing = self._objects.find(cache.name)
            accepted = self._accept(cache, existing)
            watch(Accepted(accepted, resumed=existing is not None, notes=wanted.notes))
            ready = await self._build(accepted, wanted, watch)
            watch(Built(ready))
            if attach:
                ready, attached = await self._attach(ready)
                watch(attached)
        return ready

    async def attach(self, name: str) -> Attached:
        """Make the images usable in containerd. Raises NotFound, InvalidInput when not Ready, HostError."""
        with self._objects.locked(name):
            _, attached = await self._attach(self._objects.get(name))
        return attached

    async def detach(self, name: str) -> tuple[str, ...]:
        """Take the records back, unless another attached cache has them too; returns the names removed."""
        with self._objects.locked(name):
            cache = self._objects.get(name)
            removed = await self._detach(cache)
            self._put(cache, NodeCounts())
        return removed

    async def delete(self, name: str, *, force: bool = False) -> Deleted:
        """Detach, delete the bundle, collect. ``force`` goes on when containerd cannot be asked.

        Layers that another cache, a build or a container needs stay until they let go. Raises NotFound, StoreBusy,
        HostError.
        """
        self._objects.get(name)
        with self._objects.locked(name):
            return await self._delete(self._objects.get(name), force=force)

    async def expire(self) -> Expired:
        """Delete every cache whose time has come; one that cannot be deleted now stays and is tried next time."""
        now = self._world.clock.now()
        deleted, failed = [], []
        for cache in self._objects.all():
            if cache.status is None or not phases.expired(cache.status, now):
                continue
            try:
                deleted.append(await self.delete(cache.name))
            except (NotFound, StoreBusy):
                continue  # another process has it in hand
            except ImageCacheError as error:
                failed.append((cache.name, error))
        return Expired(tuple(deleted), tuple(failed))

    def _accept(self, cache: ImageCache, existing: ImageCache | None) -> ImageCache:
        """Write the object as it is when its build starts: a new one, or the earlier one with its id and history."""
        now = self._world.clock.now()
        if existing is None or existing.status is None:
            accepted = creation.begin(cache, now, self._world.random)
        else:
            accepted = creation.resume(cache, existing, existing.status, now)
            if creation.differs(cache, existing):
                self._forget(existing.status.image_cache_id)
        self._objects.put(accepted)
        return accepted

    async def _build(
        self, cache: ImageCache, wanted: EffectiveSpec, watch: Callable[[CreateEvent], None]
    ) -> ImageCache:
        """Build, and leave the outcome in the object whatever it is."""
        generation, now = cache.metadata.generation, self._world.clock.now
        async with Recorder(self._objects, cache, self._world.clock, self._world.record_interval) as recorder:

            def on(event: BuildEvent) -> None:
                recorder.on(event)
                watch(event)

            request = building.request(recorder.status.image_cache_id, wanted)
            try:
                document = self._bundle(request.bundle_id) or await self._world.builder.build(request, on)
            except ImageCacheError as error:
                message = building.explain(error)
                recorder.event(error.reason, message, about=error.image, kind=events.WARNING)
                recorder.set(phases.failed(recorder.status, generation, now(), reason=error.reason, message=message))
                raise
            except BaseException:  # cancelled, or a bug: the object must not say for ever that it is being built
                recorder.set(phases.interrupted(recorder.status, generation, now()))
                raise
            recorder.set(building.ready(recorder.status, generation, now(), document, wanted.retention_days))
            recorder.event("Ready", building.summary(document))
        return recorder.cache

    def _bundle(self, bundle_id: str) -> Bundle | None:
        try:
            return self._world.bundles.get(bundle_id)
        except NotFound:
            return None

    def _forget(self, bundle_id: str) -> None:
        with suppress(NotFound):
            self._world.bundles.delete(bundle_id)

    async def _attach(self, cache: ImageCache) -> tuple[ImageCache, Attached]:
        bundle = self._ready(cache)
        try:
            attached = await self._world.attacher.attach(bundle)
        except ImageCacheError as error:
            note = events.event(
                "AttachFailed",
                building.explain(error),
                about=cache.name,
                now=self._world.clock.now(),
                kind=events.WARNING,
            )
            self._put(cache, NodeCounts(desired=1, failed=1), note)
            raise
        return self._put(cache, NodeCounts(desired=1, ready=1)), attached

    def _ready(self, cache: ImageCache) -> Bundle:
        if cache.status is None or cache.status.phase is not Phase.READY:
            phase = cache.status.phase.value if cache.status else "new"
            raise InvalidInput(
                f"{cache.name} is {phase}, only a Ready cache can be attached",
                hint=f"see why with 'imagecache describe {cache.name}'",
            )
        return self._world.bundles.get(cache.status.image_cache_id)

    async def _detach(self, cache: ImageCache) -> tuple[str, ...]:
        bundle = self._bundle(cache.status.image_cache_id) if cache.status else None
        if bundle is None or not _attached(cache):
            return ()
        others = [self._bundle(_id(other)) for other in self._objects.all() if _attached(other)]
        keep = [other for other in others if other is not None and other.id != bundle.id]
        return await self._world.attacher.detach(bundle, keep)

    async def _delete(self, cache: ImageCache, *, force: bool) -> Deleted:
        """Containerd first, the object last: a delete that stops half-way is finished by the next one."""
        bundle = self._bundle(_id(cache))
        detached: tuple[str, ...] = ()
        try:
            detached = await self._detach(cache)
        except HostError:
            if not force:
                raise
        self._forget(_id(cache))
        self._objects.remove(cache.name)
        collected = self._world.collector.collect()
        own = bundle.layer_names() if bundle else frozenset()
        kept = tuple((str(name), reasons) for name, reasons in sorted(collected.kept.items()) if name in own)
        return Deleted(cache, detached, collected, kept)

    def _put(self, cache: ImageCache, nodes: NodeCounts, *notes: Event) -> ImageCache:
        """Write what attach and detach changed."""
        if cache.status is None:
            return cache
        status = msgspec.structs.replace(cache.status, nodes=nodes)
        for note in notes:
            status = with_event(status, note)
        cache = cache.with_status(status)
        self._objects.put(cache)
        return cache


def _id(cache: ImageCache) -> str:
    return cache.status.image_cache_id if cache.status else ""


def _attached(cache: ImageCache) -> bool:
    """Whether containerd may have records of it; after a failed attach there may be some."""
    return cache.status is not None and cache.status.nodes is not None and cache.status.nodes.desired > 0
