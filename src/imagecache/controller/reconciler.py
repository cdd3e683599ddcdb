"""Around ``decide``: find out what is, ask it, carry out what it says, one ImageCache at a time.

Everything that is remembered here is a shortcut: after a restart the objects, the store and the secrets say it all
again. It must not decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from imagecache.api import nodes, parse
from imagecache.api.effective_spec import effective_spec
from imagecache.api.types import Event, ImageCache, Status
from imagecache.api.yamltext import JSON
from imagecache.backoff import Backoff, Retries
from imagecache.clock import Clock
from imagecache.controller import pull_secrets
from imagecache.controller.build_queue import Builds
from imagecache.controller.decide import SOON, bundle_ids, decide, needs_secrets
from imagecache.controller.decision import (
    Action,
    AddFinalizer,
    Decision,
    DeleteBundle,
    DeleteObject,
    ObservedState,
    RemoveFinalizer,
    StartBuild,
    StopBuild,
)
from imagecache.controller.dependencies import Builder, BundleStore, Job
from imagecache.controller.event_recorder import post
from imagecache.controller.informer_cache import InformerCache
from imagecache.controller.work_queue import WorkQueue
from imagecache.errors import (
    ImageCacheError,
    InvalidManifest,
    NotFound,
    ObjectConflict,
    ObjectNotFound,
    PullSecretUnavailable,
    StoreError,
)
from imagecache.kube import objects
from imagecache.kube.api import Kube, Object
from imagecache.kube.resources import IMAGE_CACHES, Resource
from imagecache.store.model import Bundle
from imagecache.telemetry.log import get_logger

_LONGEST = 3600.0
"""Seconds; nothing is planned further ahead, so that a clock that was set is noticed."""
_BACKOFF = Backoff(0.25, 30.0)
_COLLECT_PAUSE = 2.0
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    kube: Kube
    builder: Builder
    store: BundleStore
    clock: Clock
    architecture: str
    builds: int = 1
    """At the same time."""
    workers: int = 8
    """Objects looked at at the same time."""
    interval: float = 1.0
    """Seconds between two writes of a progress."""


@dataclass
class _Memory:
    """What is known about one object besides the object."""

    name: str
    status: Status | None = None
    """As written last; the picture may lag behind it."""
    written: float = -1e9
    """Monotonic time of that."""
    told: list[Event] = field(default_factory=list)
    """By the build, not in the status yet."""
    secrets: str | None = None
    """Fingerprint of what the last build had; None: not known."""
    retries: Retries = field(init=False)

    def __post_init__(self) -> None:
        self.retries = Retries(_BACKOFF, _log, name=self.name)


class Reconciler:
    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._kube = dependencies.kube
        self.picture = InformerCache()
        self.queue = WorkQueue()
        self.builds = Builds(dependencies.builder, dependencies.builds, self._built)
        self._memories: dict[str, _Memory] = {}
        """By uid."""
        self._orphans: set[str] = set()
        """Bundles that could not be deleted when their object went."""
        self._freed = asyncio.Event()

    def take(self, resource: Resource, item: Object, *, gone: bool) -> None:
        """A change of the cluster."""
        for name in self.picture.take(resource, item, gone=gone):
            self.queue.add(name)

    async def run(self) -> None:
        """Work until cancelled; builds are stopped then, and go on with the next controller."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._dependencies.workers):
                    group.create_task(self._work())
                group.create_task(self._tidy())
        finally:
            self.queue.close()
            await self.builds.close()

    async def _work(self) -> None:
        while True:
            name = await self.queue.take()
            try:
                await self.reconcile(name)
            except ImageCacheError as error:
                self._try_again(name, error)
            except Exception:  # noqa: BLE001 - a supervisor: one object must not end the others
                _log.exception("reconciling failed for a reason that is ours", name=name)
                self.queue.add(name, _BACKOFF.longest)
            finally:
                self.queue.done(name)

    def _try_again(self, name: str, error: ImageCacheError) -> None:
        memory = self._memories.get(objects.uid(self.picture.caches.get(name, {})))
        retries = memory.retries if memory else Retries(_BACKOFF, _log, name=name)
        # a conflict means that the watch lags behind a write of ours or of a user: nothing to report
        self.queue.add(name, retries.failed(None if isinstance(error, ObjectConflict) else error))

    async def reconcile(self, name: str) -> None:
        """One look at one ImageCache. Raises KubernetesError when the API server refuses what follows from it."""
        item = self.picture.caches.get(name)
        await self._forget_others(name, objects.uid(item) if item else "")
        if item is None:
            self.queue.forget(name)
            return
        stored = parse.stored(item)
        memory = self._memories.setdefault(stored.cache.metadata.uid, _Memory(name))
        cache = stored.cache.with_status(memory.status) if memory.status else stored.cache
        memory.told.extend(self.builds.told(cache.metadata.uid))
        decision = decide(cache, await self._observe(cache, stored, memory), self._dependencies.clock.now())
        await self._carry_out(cache, item, decision, memory)
        memory.retries.succeeded()
        if decision.again is not None:
            self.queue.add(name, min(decision.again + 0.01, _LONGEST))

    async def _forget_others(self, name: str, uid: str) -> None:
        """Earlier objects of the same name, and those that are gone."""
        for other in [key for key, memory in self._memories.items() if memory.name == name and key != uid]:
            await self.builds.stop(other)
            del self._memories[other]

    def _built(self, uid: str) -> None:
        """A build has news: look, but not more often than a status should be written."""
        memory = self._memories.get(uid)
        if memory is not None:
            wait = memory.written + self._dependencies.interval - self._dependencies.clock.monotonic()
            self.queue.add(memory.name, max(0.0, wait))

    # what is

    async def _observe(self, cache: ImageCache, stored: parse.Stored, memory: _Memory) -> ObservedState:
        build = self.builds.state(cache.metadata.uid)
        bundles, store_problem = await self._bundles(cache)
        problem, changed = None, False
        if needs_secrets(cache, build):
            problem, changed = await self._secrets(cache, memory)
        return ObservedState(
            architecture=self._dependencies.architecture,
            bundles=bundles,
            build=build,
            told=tuple(memory.told),
            nodes=self.picture.nodes,
            malformed=stored.problem,
            notes=stored.notes,
            secrets_problem=problem,
            secrets_changed=changed,
            store_problem=store_problem,
        )

    async def _bundles(self, cache: ImageCache) -> tuple[dict[str, Bundle], ImageCacheError | None]:
        def look() -> dict[str, Bundle]:
            found = {}
            for name in bundle_ids(cache):
                try:
                    found[name] = self._dependencies.store.get(name)
                except NotFound:
                    continue
            return found

        try:
            return await asyncio.to_thread(look), None
        except StoreError as error:
            return {}, error

    async def _secrets(self, cache: ImageCache, memory: _Memory) -> tuple[ImageCacheError | None, bool]:
        """Why they cannot be had, and whether they changed since the last build."""
        names = self._secret_names(cache)
        if not names:
            return None, False
        try:
            found = await pull_secrets.read(self._kube, names)
        except PullSecretUnavailable as error:
            return error, True
        return None, pull_secrets.fingerprint(found) != memory.secrets

    def _secret_names(self, cache: ImageCache) -> tuple[str, ...]:
        try:
            return effective_spec(cache, architecture=self._dependencies.architecture).pull_secrets
        except InvalidManifest:
            return ()

    # what follows

    async def _carry_out(self, cache: ImageCache, item: Object, decision: Decision, memory: _Memory) -> None:
        try:
            for action in decision.actions:
                if isinstance(action, AddFinalizer):
                    await self._set_finalizers(cache, (*cache.metadata.finalizers, nodes.FINALIZER))
            await self._write(cache, item, decision.status, memory)
            for action in decision.actions:
                await self._act(cache, action, memory)
        except ObjectNotFound:
            return  # it went meanwhile; the watch says so too
        await post(self._kube, cache, decision.events)

    async def _act(self, cache: ImageCache, action: Action, memory: _Memory) -> None:
        uid = cache.metadata.uid
        match action:
            case StartBuild(request=request):
                found = await pull_secrets.read(self._kube, request.pull_secrets)
                memory.secrets = pull_secrets.fingerprint(found)
                self.builds.start(uid, Job(request, found))
            case StopBuild():
                await self.builds.stop(uid)
            case DeleteBundle(bundle_id=bundle_id):
                await self._delete_bundle(bundle_id)
            case DeleteObject():
                await self._kube.delete(IMAGE_CACHES, cache.name, uid=uid)
            case RemoveFinalizer():
                kept = tuple(entry for entry in cache.metadata.finalizers if entry != nodes.FINALIZER)
                await self._set_finalizers(cache, kept)
            case AddFinalizer():
                pass  # done first

    async def _set_finalizers(self, cache: ImageCache, finalizers: Iterable[str]) -> None:
        """With the version, since the list is replaced whole and others have their own in it."""
        metadata: Object = {"resourceVersion": cache.metadata.resource_version, "finalizers": list(finalizers)}
        await self._kube.patch(IMAGE_CACHES, cache.name, {"metadata": metadata})

    async def _write(self, cache: ImageCache, item: Object, status: Status | None, memory: _Memory) -> None:
        """The status, when it is another one. What the build told is in it then."""
        if status is not None and status is not cache.status:
            fresh: dict[str, JSON] = msgspec.to_builtins(status)
            stale = objects.at(item, "status")
            known = {*(stale if isinstance(stale, dict) else ()), *_keys(memory.status)}
            patch: Object = {key: None for key in known if key not in fresh} | fresh
            await self._kube.patch(IMAGE_CACHES, cache.name, {"status": patch}, subresource="status")
            memory.status = status
            memory.written = self._dependencies.clock.monotonic()
        memory.told.clear()

    async def _delete_bundle(self, bundle_id: str) -> None:
        try:
            await asyncio.to_thread(self._dependencies.store.delete, bundle_id)
        except NotFound:
            return
        except StoreError as error:
            _log.warning("bundle not deleted, will try again", bundle=bundle_id, problem=str(error))
            self._orphans.add(bundle_id)
            asyncio.get_running_loop().call_later(SOON, self._freed.set)
        else:
            self._freed.set()

    async def _tidy(self) -> None:
        """Collect what nobody needs after bundles went, and try again what could not be deleted."""
        while True:
            await self._freed.wait()
            await asyncio.sleep(_COLLECT_PAUSE)
            self._freed.clear()
            orphans, self._orphans = self._orphans, set()
            for bundle_id in orphans:
                await self._delete_bundle(bundle_id)
            try:
                freed = await asyncio.to_thread(self._dependencies.store.collect)
            except StoreError as error:
                _log.warning("collection failed", problem=str(error))
            else:
                _log.info("collected", bytes=freed)


def _keys(status: Status | None) -> set[str]:
    return set(msgspec.to_builtins(status)) if status else set()
