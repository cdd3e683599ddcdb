"""The verbs on ImageCaches of a host without Kubernetes: create, apply, attach, detach, delete, expire, get, describe.

The objects are files, and the decisions about them are those of a cluster's controller, carried out for one object at a
time while this process holds the claim on it. The order of every verb is such that a crash at any point leaves
something that the same verb finishes. It must not print.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from imagecache.api import building, events, ids, nodes
from imagecache.api.assignment import SERVING
from imagecache.api.building import BuildRequest
from imagecache.api.describe import Description, describe
from imagecache.api.effective_spec import effective_spec
from imagecache.api.phases import expired
from imagecache.api.pull_secrets import PullSecret
from imagecache.api.types import RESOURCES, Event, ImageCache
from imagecache.api.yamltext import JSON
from imagecache.backoff import Backoff
from imagecache.builder.build_events import BuildEvent
from imagecache.clock import Clock
from imagecache.containerd.api import Attached
from imagecache.controller import watches
from imagecache.controller.decision import Role
from imagecache.controller.dependencies import Builder, BundleStore
from imagecache.controller.reconciler import Dependencies, Reconciler
from imagecache.errors import (
    AlreadyExists,
    HostError,
    ImageCacheError,
    InvalidInput,
    NoSpace,
    NotFound,
    ObjectNotFound,
    PullSecretUnavailable,
    StoreBusy,
    StoreError,
)
from imagecache.kube import objects
from imagecache.kube.api import Kube, Object
from imagecache.kube.object_files import ObjectFiles
from imagecache.kube.resources import IMAGE_CACHES
from imagecache.plain_host.node import HostNode
from imagecache.plain_host.settle import settle
from imagecache.store.bundle_document import Bundle
from imagecache.store.collect import Collected

INTERVAL = 0.2
"""Seconds between two writes of a progress: ``get -w`` looks every 0.3."""

CLAIM = 5.0
"""Seconds to wait for a claim: a describe has one for milliseconds, the agent while it attaches, a build for longer."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The object exists; its build begins."""

    name: str
    cache_id: str
    how: str
    """``created``, ``resumed``, ``configured`` or ``unchanged``."""
    notes: tuple[str, ...]
    """What was ignored or changed in the document."""


@dataclass(frozen=True, slots=True)
class Built:
    """The cache is Ready."""

    name: str
    cache_id: str


ShownEvent = Accepted | BuildEvent | Built | Attached
Show = Callable[[ShownEvent], None]


@dataclass(frozen=True, slots=True)
class Deleted:
    cache: ImageCache
    detached: tuple[str, ...]
    """Names removed from containerd."""
    collected: Collected
    kept: tuple[tuple[str, tuple[str, ...]], ...]
    """Layer images of the cache that stay, each with its reasons."""


@dataclass(frozen=True, slots=True)
class Expired:
    deleted: tuple[Deleted, ...]
    failed: tuple[tuple[str, ImageCacheError], ...]
    """Names of expired caches that still exist, and why; retried next time."""


class HostStore(BundleStore, Protocol):
    """``apps.bundle_store.LocalBundles``; the fake is in ``testkit.builder``."""

    def all(self) -> Sequence[Bundle]:
        """Every bundle. Raises StoreError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDependencies:
    """Everything that the verbs work with."""

    files: ObjectFiles
    kube: Kube
    """Over these files."""
    store: HostStore
    builder: Callable[[], Builder]
    """Makes one when it is needed; most commands need none."""
    node: HostNode
    clock: Clock
    architecture: str
    """GOARCH of this host, for caches that name none."""
    interval: float = INTERVAL
    claim: float = CLAIM
    configuration: Callable[[], str] = str
    """As ``controller.reconciler.Dependencies.configuration``."""
    looks: Backoff = watches.BACKOFF
    """Between two looks of the agent at a Secret that is waited for."""

    async def read(self, name: str) -> Object | None:
        """The object as its file is now; None when there is none."""
        try:
            return await self.kube.get(IMAGE_CACHES, name)
        except ObjectNotFound:
            return None


def _ignore(event: ShownEvent) -> None:
    del event


class PlainHost:
    def __init__(self, dependencies: HostDependencies) -> None:
        self._dependencies = dependencies
        self._files = dependencies.files
        self._kube = dependencies.kube
        self._node = dependencies.node

    def get(self, name: str) -> ImageCache:
        """Raises NotFound, StoreError."""
        return self._files.cache(name)

    def list(self) -> Sequence[ImageCache]:
        """Every object, by name. Raises StoreError."""
        return self._files.caches()

    def describe(self, name: str) -> Description:
        """Raises NotFound, StoreError."""
        cache, busy = self._files.cache(name), self._files.busy(name)
        bundle = self._bundle(cache)
        if bundle is None:
            return describe(cache, None, (), (), busy=busy)
        return describe(cache, bundle, self._files.caches(), self._dependencies.store.all(), busy=busy)

    async def create(self, cache: ImageCache, *, attach: bool = True, show: Show = _ignore) -> ImageCache:
        """Build and attach. A cache that failed or was interrupted is resumed, with the same id and its downloads.

        Raises InvalidManifest before anything is written, AlreadyExists for one that has a bundle, StoreBusy while
        another process works on it; what the build raises is also in the status. When only attaching fails, the cache
        is Ready and the error names the reason. A cancellation leaves a resumable state and passes on.
        """
        with self._claimed_for(cache):
            existing = await self._existing(cache.name)
            if existing is not None and existing.status is not None and existing.status.phase in SERVING:
                raise AlreadyExists(
                    f'{RESOURCES} "{cache.name}" already exists',
                    hint=f"change it with imagecache apply -f FILE, or delete it first: imagecache delete {cache.name}",
                )
            return await self._build(cache, existing, "created" if existing is None else "resumed", attach, show)

    async def apply(self, cache: ImageCache, *, attach: bool = True, show: Show = _ignore) -> ImageCache:
        """Create the cache, or make an existing one what the document asks for: its old content serves meanwhile.

        Raises as ``create``, but for AlreadyExists. When an update fails, the old content goes on serving.
        """
        with self._claimed_for(cache):
            existing = await self._existing(cache.name)
            same = existing is not None and _asked(existing) == _asked(cache)
            how = "created" if existing is None else "unchanged" if same else "configured"
            return await self._build(cache, existing, how, attach, show)

    async def attach(self, name: str) -> Attached:
        """Make the images usable in containerd. Raises NotFound, InvalidInput without a bundle, HostError."""
        with self._files.claimed(name, wait=self._dependencies.claim):
            return await self._attach(self._files.cache(name))

    async def detach(self, name: str) -> tuple[str, ...]:
        """Remove the records, unless another attached cache has them too; returns the names removed."""
        with self._files.claimed(name, wait=self._dependencies.claim):
            self._files.cache(name)
            removed = await self._node.detach(name)
            await self._count(name)
        return removed

    async def delete(self, name: str, *, force: bool = False) -> Deleted:
        """Detach, delete the bundle, collect. ``force`` goes on when containerd does not answer.

        Layers that another cache, a build or a container needs stay until they are released. Raises NotFound,
        StoreBusy, HostError.
        """
        self._files.cache(name)
        with self._files.claimed(name, wait=self._dependencies.claim):
            taken = await self._take_away(self._files.cache(name), force=force)
        return await self._collect(*taken)

    async def expire(self) -> Expired:
        """Delete every cache that has expired; one that cannot be deleted now stays and is retried next time."""
        now = self._dependencies.clock.now()
        deleted, failed = [], []
        for name in [cache.name for cache in self._files.caches() if _is_expired(cache, now)]:
            try:
                with self._files.claimed(name):
                    cache = self._files.cache(name)
                    if not _is_expired(cache, now):  # another process has created it anew since it was listed
                        continue
                    taken = await self._take_away(cache, force=False)
                deleted.append(await self._collect(*taken))
            except (NotFound, StoreBusy):
                continue  # another process deletes it, or it is looked at again next time
            except ImageCacheError as error:
                failed.append((name, error))
        return Expired(tuple(deleted), tuple(failed))

    async def _take_away(self, cache: ImageCache, *, force: bool) -> tuple[ImageCache, Bundle | None, tuple[str, ...]]:
        """Detach it and remove it with its bundle; returns what was there."""
        bundle, detached = None, tuple[str, ...]()
        with suppress(StoreError):  # a damaged one can be deleted, too
            bundle = self._bundle(cache)
        try:
            detached = await self._node.detach(cache.name)
        except HostError:
            if not force:
                raise
        await self._remove(cache)
        return cache, bundle, detached

    async def _collect(self, cache: ImageCache, bundle: Bundle | None, detached: tuple[str, ...]) -> Deleted:
        """Without the claim: a collection may take long, and the name is free."""
        collected = await asyncio.to_thread(self._dependencies.store.collect)
        own = bundle.layer_names() if bundle else frozenset()
        kept = tuple((str(name), reasons) for name, reasons in sorted(collected.kept.items()) if name in own)
        return Deleted(cache, detached, collected, kept)

    @contextmanager
    def _claimed_for(self, cache: ImageCache) -> Iterator[None]:
        """Claimed, once it is clear that the document can be built. Raises InvalidManifest, StoreBusy."""
        effective_spec(cache, architectures=(self._dependencies.architecture,))
        with self._files.claimed(cache.name, wait=self._dependencies.claim):
            yield

    async def _existing(self, name: str) -> ImageCache | None:
        """The object, unless there is none, or it has expired or its deletion was interrupted: then it is deleted."""
        if self._files.read(name) is None:
            return None
        cache = self._files.cache(name)
        if not _is_expired(cache, self._dependencies.clock.now()) and not cache.metadata.deletion_timestamp:
            return cache
        await self._node.detach(name)
        await self._remove(cache)
        return None

    async def _remove(self, cache: ImageCache) -> None:
        """The bundle, then the object: its finalizer keeps it until then, so a crash leaves no bundle behind."""
        try:
            await self._kube.delete(IMAGE_CACHES, cache.name)
        except NoSpace:
            if self._dependencies.store.ids(ids.owner(cache.metadata.uid)):
                raise
            # without a bundle it needs no mark that it is being deleted: people delete because the disk is full
            with self._files.writing():
                self._files.remove(cache.name)
        await self._reconciler(Role.NODE).reconcile(cache.name)

    async def _build(
        self, cache: ImageCache, existing: ImageCache | None, how: str, attach: bool, show: Show
    ) -> ImageCache:
        """Write the object, settle it, attach it."""
        spec = effective_spec(cache, architectures=(self._dependencies.architecture,))
        item = await self._write(cache, existing)
        if attach:  # before the build: when it fails, the agent may finish it, and then attaches it
            await asyncio.to_thread(self._node.mean, cache.name)
        # what the first decision will put into the status
        first = ids.derived_cache_id(objects.uid(item))
        known = existing.status.image_cache_id if existing and existing.status else first
        display = _Display(show)
        problems = (spec.schedule_problem,) if spec.schedule_problem else ()
        display(Accepted(cache.name, known, how, (*spec.notes, *problems)))
        reconciler = self._reconciler(Role.COMMAND, display)
        try:
            ready = await settle(reconciler, self._kube, cache.name, self._dependencies.clock)
        except asyncio.CancelledError:
            if display.problem is not None:
                raise display.problem from None
            raise
        except PullSecretUnavailable as error:
            # on a host a Secret is a file, so this is no state of Kubernetes but input that is missing or wrong
            kind = NotFound if isinstance(error.__cause__, ObjectNotFound) else InvalidInput
            raise kind(error.message, hint=error.hint) from error
        finally:
            await reconciler.close()
        show(Built(ready.name, ready.status.image_cache_id if ready.status else ""))
        if attach:
            show(await self._attach(ready))
        return self._files.cache(cache.name)

    async def _write(self, cache: ImageCache, existing: ImageCache | None) -> Object:
        """The object as the document has it; the history of an existing one stays."""
        item: Object = msgspec.to_builtins(cache)
        if existing is None:
            objects.metadata(item)["finalizers"] = [nodes.FINALIZER]  # saves the write that a decision would ask for
            return await self._kube.create(IMAGE_CACHES, item)
        before: Object = msgspec.to_builtins(existing)
        metadata: Object = {
            key: _replacing(objects.at(before, "metadata", key), objects.at(item, "metadata", key))
            for key in ("annotations", "labels")
        }
        patch: Object = {"metadata": metadata, "spec": _replacing(before["spec"], item["spec"])}
        return await self._kube.patch(IMAGE_CACHES, cache.name, patch)

    async def _attach(self, cache: ImageCache) -> Attached:
        bundle = self._serving(cache)
        try:
            attached = await self._node.attach(bundle, cache)
        except ImageCacheError as error:
            now, message = self._dependencies.clock.now(), building.explain(error)
            failed = events.event("AttachFailed", message, about=cache.name, now=now, kind=events.WARNING)
            await self._count(cache.name, failed)
            raise
        await self._count(cache.name)
        return attached

    async def _count(self, name: str, *reported: Event) -> None:
        """Bring what this node has of the object into its status."""
        reconciler = self._reconciler(Role.NODE)
        reconciler.report(name, *reported)
        await reconciler.reconcile(name)

    def _serving(self, cache: ImageCache) -> Bundle:
        if cache.metadata.deletion_timestamp:
            raise InvalidInput(
                f"{cache.name} is half deleted, it cannot be attached",
                hint=f"finish that with 'imagecache delete {cache.name}', or create it again",
            )
        if cache.status is None or cache.status.phase not in SERVING:
            phase = cache.status.phase.value if cache.status else "new"
            raise InvalidInput(
                f"{cache.name} is {phase}, only a Ready cache can be attached",
                hint=f"see why with 'imagecache describe {cache.name}'",
            )
        return self._dependencies.store.get(cache.status.image_cache_id)

    def _bundle(self, cache: ImageCache) -> Bundle | None:
        try:
            return self._dependencies.store.get(cache.status.image_cache_id) if cache.status else None
        except NotFound:
            return None

    def _reconciler(self, role: Role, show: Show = _ignore) -> Reconciler:
        dependencies = self._dependencies
        return Reconciler(
            Dependencies(
                kube=dependencies.kube,
                builder=_ShownBuilder(dependencies.builder, show),
                store=dependencies.store,
                clock=dependencies.clock,
                architecture=dependencies.architecture,
                role=role,
                read=dependencies.read,
                nodes=dependencies.node.views,
                interval=dependencies.interval,
                configuration=dependencies.configuration,
            )
        )


@dataclass(slots=True)
class _Display:
    """Shows events. A display that fails, as on a closed stdout, interrupts the command: the build has not failed."""

    show: Show
    task: asyncio.Task[object] | None = field(default_factory=asyncio.current_task)
    problem: Exception | None = None

    def __call__(self, event: ShownEvent) -> None:
        try:
            self.show(event)
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits for the build
            self.problem = error
            if self.task is not None:
                self.task.cancel()


@dataclass(frozen=True, slots=True)
class _ShownBuilder:
    """``controller.dependencies.Builder`` whose events a display gets too."""

    builder: Callable[[], Builder]
    show: Show

    async def build(
        self, request: BuildRequest, credentials: Sequence[PullSecret], emit: Callable[[BuildEvent], None]
    ) -> None:
        def both(event: BuildEvent) -> None:
            emit(event)
            self.show(event)

        await self.builder().build(request, credentials, both)


def _is_expired(cache: ImageCache, now: dt.datetime) -> bool:
    return cache.status is not None and expired(cache.status, now)


def _asked(cache: ImageCache) -> tuple[object, ...]:
    """What a document says, without what a server has added."""
    return cache.spec, cache.metadata.annotations, cache.metadata.labels


def _replacing(before: JSON, after: JSON) -> JSON:
    """A merge patch that makes one mapping the other."""
    old, new = (value if isinstance(value, dict) else {} for value in (before, after))
    removed: Object = dict.fromkeys(old.keys() - new.keys())
    return removed | new
