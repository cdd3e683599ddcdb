"""Around ``decide``: observe, ask it, carry out its decision, one ImageCache at a time.

Everything that is remembered here is a shortcut: after a restart the objects, the store and the secrets lead to the
same decisions again. It must not decide.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from imagecache.api import assignment, building, ids, nodes, parse, usage
from imagecache.api.assignment import NodeCounter
from imagecache.api.effective_spec import effective_spec
from imagecache.api.nodes import NodeView
from imagecache.api.tags import TagCheck
from imagecache.api.types import Event, ImageCache, Status
from imagecache.api.usage import Matches
from imagecache.api.yamltext import JSON
from imagecache.backoff import Backoff, Retries
from imagecache.clock import Clock
from imagecache.concurrency import finish_all
from imagecache.controller import event_recorder, pull_secrets, watches
from imagecache.controller.build_queue import TURN, BuildQueue
from imagecache.controller.decide import SOON, decide
from imagecache.controller.decision import (
    CONFIGURATION,
    Action,
    AddFinalizer,
    Decision,
    DeleteBundle,
    DeleteObject,
    ObservedState,
    RemoveFinalizer,
    Role,
    Running,
    StartBuild,
    StopBuild,
)
from imagecache.controller.dependencies import Builder, BundleStore, Claims, Unclaimed
from imagecache.controller.informer_cache import InformerCache
from imagecache.controller.match_log import MatchLog
from imagecache.controller.needs import needs_configuration, needs_secrets
from imagecache.controller.node_index import FewNodes
from imagecache.controller.object_memory import BACKOFF, ObjectMemory
from imagecache.controller.places import Places
from imagecache.controller.quota import Limits
from imagecache.controller.watches import Seen, Watches
from imagecache.controller.work_queue import WorkQueue
from imagecache.errors import (
    ImageCacheError,
    InvalidManifest,
    KubernetesError,
    NotFound,
    ObjectConflict,
    ObjectNotFound,
    PullSecretUnavailable,
    StoreError,
)
from imagecache.kube import objects
from imagecache.kube.api import Kube, Object
from imagecache.kube.resources import IMAGE_CACHES, Resource
from imagecache.store.bundle_document import Bundle
from imagecache.telemetry.log import get_logger

_LONGEST = 3600.0
"""Seconds; nothing is planned further ahead, so that a clock that was set is noticed."""
_LAG = 60.0
"""Seconds that an informer lags behind at most; after that it is believed, as in a cluster whose etcd was restored."""
_COLLECT_PAUSE = 2.0
"""Seconds from a deleted bundle to the collection: several are often deleted together, and one collection does."""
_log = get_logger(__name__)


async def _nothing(cache: ImageCache) -> None:
    del cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    kube: Kube
    builder: Builder
    store: BundleStore
    clock: Clock
    architecture: str
    """GOARCH for caches that name none, where no node is known."""
    role: Role = Role.CLUSTER
    claims: Claims = field(default_factory=Unclaimed)
    read: Callable[[str], Awaitable[Object | None]] | None = None
    """Reads an object by name, for every look. None: the informers' is good enough, for a request costs too much."""
    nodes: Callable[[ImageCache], Sequence[NodeView] | None] | None = None
    """The nodes that a cache is counted on; it blocks. None: those of the cluster, as the informers have them."""
    detach: Callable[[ImageCache], Awaitable[object]] = _nothing
    """Called before an expired object is deleted; when it fails, the object stays."""
    builds: int = 1
    """At the same time."""
    turn: float = TURN
    """Seconds of a build's first turn, when others wait."""
    workers: int = 8
    """Objects looked at at the same time."""
    configuration: Callable[[], str] = str
    """The version of what is configured about registries besides the objects; it blocks."""
    looks: Backoff = watches.BACKOFF
    """Between two looks at a Secret that objects wait for."""
    interval: float = 1.0
    """Seconds between two writes of a progress."""
    limits: Limits = field(default_factory=Limits)


class Reconciler:
    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._kube = dependencies.kube
        self.informers = InformerCache()
        self.queue = WorkQueue()
        self.watches = Watches(self._look, self.queue.add, dependencies.looks)
        self.builds = BuildQueue(
            dependencies.builder,
            dependencies.builds,
            dependencies.clock,
            self._built,
            hold=dependencies.store.hold,
            turn=dependencies.turn,
        )
        self.places = Places(dependencies.limits, dependencies.store.layers, dependencies.clock, self.queue.add)
        self._matches = MatchLog(dependencies.clock)
        self._memories: dict[str, ObjectMemory] = {}
        """By uid."""
        self._reported: dict[str, list[Event]] = {}
        """By name, not taken over by a decision yet."""
        self._tags: dict[str, dict[str, TagCheck]] = {}
        """The same."""
        self._orphans: set[str] = set()
        """Bundles that could not be deleted when their object was."""
        self._freed = asyncio.Event()

    def take(self, resource: Resource, item: Object, *, gone: bool) -> Collection[str]:
        """A change that a watch has reported; returns the names of the ImageCaches that it may concern."""
        if resource == IMAGE_CACHES:
            self.places.take(item, gone=gone)
        concerned = self.informers.take(resource, item, gone=gone)
        for name in concerned:
            self.queue.add(name)
        return concerned

    def report(self, name: str, *events: Event) -> None:
        """Events of a node about an object, or only that what it has of the object has changed."""
        self._reported.setdefault(name, []).extend(events)
        self.queue.add(name)

    def matched(self, name: str, when: dt.datetime, count: int = 1) -> None:
        """So many pods were matched with a cache: in its status within a minute, with others of that minute."""
        self._matches.add(name, Matches(count, when))
        self.places.matched(name, when)
        self.queue.add(name, self._matches.seconds_left(name) or 0.0)

    def checked(self, name: str, checks: Mapping[str, TagCheck]) -> None:
        """What tags of a cache name now, by image as written."""
        self._tags.setdefault(name, {}).update(checks)
        self.queue.add(name)

    async def run(self) -> None:
        """Work until cancelled; builds are stopped then, and go on with the next controller."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._dependencies.workers):
                    group.create_task(self._work())
                group.create_task(self._collect())
                group.create_task(self.watches.run())
                group.create_task(self.places.run())
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop the builds, forget what is planned, and let go of what was claimed for them."""
        self.queue.close()
        await self.builds.close()
        for memory in self._memories.values():
            self._dependencies.claims.release(memory.name)

    async def _work(self) -> None:
        while True:
            name = await self.queue.take()
            try:
                await self.reconcile(name)
            except ImageCacheError as error:
                self._try_again(name, error)
            except Exception:  # noqa: BLE001 - a supervisor: one object must not end the others
                _log.exception("reconciling failed for a reason that is ours", name=name)
                self.queue.add(name, BACKOFF.longest)
            finally:
                self.queue.done(name)

    def _try_again(self, name: str, error: ImageCacheError) -> None:
        memory = self._memories.get(objects.uid(self.informers.caches.get(name, {})))
        retries = memory.retries if memory else Retries(BACKOFF, _log, name=name)
        # a conflict means that the watch lags behind a write of ours or of a user: nothing to report
        self.queue.add(name, retries.failed(None if isinstance(error, ObjectConflict) else error))

    async def reconcile(self, name: str, *, requested: bool = False) -> Decision | None:
        """Decide about one ImageCache once; None when it does not exist, or another process has it.

        ``requested``: a person has just asked for it. Raises KubernetesError when the API server refuses what follows,
        HostError when an expired one stays attached.
        """
        read = self._dependencies.read
        item = self.informers.caches.get(name) if read is None else await read(name)
        await self._forget_others(name, objects.uid(item) if item else "")
        if item is None:
            self.queue.forget(name)
            self.watches.watch(name, {}, ())
            self._matches.forget(name)
            self._tags.pop(name, None)
            self._dependencies.claims.release(name)
            return None
        stored = parse.stored(item)
        memory = self._memories.setdefault(stored.cache.metadata.uid, ObjectMemory(name))
        cache = self._as_written(stored.cache, memory)
        observed = await self._observe(cache, stored, memory, requested=requested)
        decision = decide(cache, observed, self._dependencies.clock.now())
        self.places.decided(name, cache.metadata.uid, decision.status)  # nothing was awaited since it was observed
        if decision.actions or decision.events or decision.status is not cache.status:
            if not self._dependencies.claims.take(name, cache.metadata.resource_version):
                self.queue.add(name, SOON)
                return None
            await self._carry_out(cache, item, decision, memory)
        self.watches.watch(name, memory.seen, decision.watches)
        memory.retries.succeeded()
        waits = [wait for wait in (decision.again, self._matches.seconds_left(name)) if wait is not None]
        if waits:
            self.queue.add(name, min(min(waits) + 0.01, _LONGEST))
        return decision

    def _as_written(self, cache: ImageCache, memory: ObjectMemory) -> ImageCache:
        """The object with the status that we wrote last, as long as the informer may lag behind that write.

        From then on what the API server says is so, also when somebody else has set the status back: to go by what we
        believe to have written would leave that as it is for ever.
        """
        if memory.status is None:
            return cache
        late = _is_before(cache.metadata.resource_version, memory.version)
        if late and self._dependencies.clock.monotonic() - memory.written < _LAG:
            return cache.with_status(memory.status)
        memory.status = None
        return cache

    async def _forget_others(self, name: str, uid: str) -> None:
        """Earlier objects of the same name, and those that are deleted."""
        for other in [key for key, memory in self._memories.items() if memory.name == name and key != uid]:
            await self.builds.stop(other)
            del self._memories[other]

    def _built(self, uid: str) -> None:
        """A build has news. Its end is looked at at once, a progress as often as a status should be written."""
        memory = self._memories.get(uid)
        if memory is not None:
            wait = memory.written + self._dependencies.interval - self._dependencies.clock.monotonic()
            running = isinstance(self.builds.state(uid), Running)
            self.queue.add(memory.name, max(0.0, wait) if running else 0.0)

    # observe

    async def _observe(
        self, cache: ImageCache, stored: parse.Stored, memory: ObjectMemory, *, requested: bool
    ) -> ObservedState:
        # the build first: one that ends between the two looks has its bundle in the second; its events last, so that
        # those of a finished build are all there before the cache is Ready
        build = self.builds.state(cache.metadata.uid)
        bundles, store_problem = await self._bundles(cache)
        await self.places.measure()
        memory.events.extend([*self.builds.take_events(cache.metadata.uid), *self._reported.pop(cache.name, ())])
        memory.seen = {}
        memory.matches = self._matches.due(cache.name)
        memory.tags |= self._tags.pop(cache.name, {})
        secrets, problem = "", None
        refusal = self.places.refusal(cache.name)
        if refusal is None and needs_secrets(cache, build):
            secrets, problem = await self._secrets(cache, memory)
        if needs_configuration(cache, build):
            memory.seen[CONFIGURATION] = await self.watches.seen(CONFIGURATION)
        return ObservedState(
            architectures=self._architectures(cache),
            role=self._dependencies.role,
            requested=requested,
            bundles=bundles,
            build=build,
            events=tuple(memory.events),
            nodes=await self._nodes(cache),
            malformed=stored.problem,
            notes=stored.notes,
            secrets_problem=problem,
            secrets=secrets,
            configuration=memory.seen.get(CONFIGURATION, Seen()).version,
            store_problem=store_problem,
            matches=memory.matches,
            tags=memory.tags,
            # last, and again: what others have decided while this one was being observed
            refusal=refusal or self.places.refusal(cache.name),
            eviction=self.places.eviction(cache.name),
        )

    async def _nodes(self, cache: ImageCache) -> NodeCounter | None:
        if self._dependencies.nodes is None:
            return self.informers.nodes
        views = await asyncio.to_thread(self._dependencies.nodes, cache)
        return None if views is None else FewNodes(views)

    def _architectures(self, cache: ImageCache) -> Sequence[str]:
        """Those that it is built for when it names none."""
        try:
            chosen = assignment.node_selector(cache.metadata.annotations)
        except InvalidManifest:  # the decision reports it
            chosen = None
        built = building.architectures(cache.status) if cache.status is not None else ()
        return assignment.architectures(chosen, self.informers.machines, built) or (self._dependencies.architecture,)

    async def _bundles(self, cache: ImageCache) -> tuple[dict[str, Bundle], ImageCacheError | None]:
        def look() -> dict[str, Bundle]:
            found = {}
            for name in self._dependencies.store.ids(ids.owner(cache.metadata.uid)):
                try:
                    found[name] = self._dependencies.store.get(name)
                except NotFound:
                    continue
            return found

        try:
            return await asyncio.to_thread(look), None
        except StoreError as error:
            return {}, error

    async def _secrets(self, cache: ImageCache, memory: ObjectMemory) -> tuple[str, ImageCacheError | None]:
        """Their version, or why they cannot be read."""
        try:
            names = effective_spec(cache, architectures=self._architectures(cache)).pull_secrets
        except InvalidManifest:
            return "", None
        for name in names:
            memory.seen[name] = await self.watches.seen(name)
        problem = next((memory.seen[name].problem for name in names if memory.seen[name].problem), None)
        return "" if problem else pull_secrets.version({name: memory.seen[name].version for name in names}), problem

    async def _look(self, key: str) -> Seen:
        if key == CONFIGURATION:
            return Seen(await asyncio.to_thread(self._dependencies.configuration))
        try:
            return Seen(await pull_secrets.read_version(self._kube, key))
        except PullSecretUnavailable as error:
            return Seen(problem=error)

    # carry out

    async def _carry_out(self, cache: ImageCache, item: Object, decision: Decision, memory: ObjectMemory) -> None:
        try:
            for action in decision.actions:
                if isinstance(action, AddFinalizer):
                    await self._set_finalizers(cache, (*cache.metadata.finalizers, nodes.FINALIZER))
            if decision.status is not None and decision.status is not cache.status:
                await self.write_status(cache, item, decision.status)
                memory.tags.clear()
                if memory.matches is not None:
                    self._matches.written(cache.name, memory.matches)
            memory.events.clear()  # they are in the status now
            for action in decision.actions:
                await self._act(cache, action)
        except ObjectNotFound:
            return  # it was deleted meanwhile; the watch reports that too
        finally:
            if not isinstance(self.builds.state(cache.metadata.uid), Running):
                self._dependencies.claims.release(cache.name)
        await event_recorder.record(self._kube, cache, decision.events)

    async def _act(self, cache: ImageCache, action: Action) -> None:
        uid = cache.metadata.uid
        match action:
            case StartBuild(request=request):
                try:
                    found = await pull_secrets.read(self._kube, request.pull_secrets)
                except PullSecretUnavailable:
                    await self.watches.refresh(request.pull_secrets)
                    self.queue.add(cache.name)  # the next look reads them first, and decides what follows
                    return
                serves = cache.status is not None and cache.status.phase in assignment.SERVING
                self.builds.start(uid, request, found, None if serves else self.places.admit)
            case StopBuild():
                await self.builds.stop(uid)
            case DeleteBundle(bundle_id=bundle_id):
                await self._delete_bundle(bundle_id)
            case DeleteObject():
                await self._dependencies.detach(cache)
                await self._kube.delete(IMAGE_CACHES, cache.name, uid=uid)
                self.places.leaves(cache.name, uid)
            case RemoveFinalizer():
                kept = tuple(entry for entry in cache.metadata.finalizers if entry != nodes.FINALIZER)
                await self._set_finalizers(cache, kept)
            case AddFinalizer():
                pass  # done first: from the first status on, a bundle may be left behind

    async def _set_finalizers(self, cache: ImageCache, finalizers: Iterable[str]) -> None:
        """With the version, since the list is replaced whole and others have their own in it."""
        metadata: Object = {"resourceVersion": cache.metadata.resource_version, "finalizers": list(finalizers)}
        await self._kube.patch(IMAGE_CACHES, cache.name, {"metadata": metadata})

    async def write_status(self, cache: ImageCache, item: Object, status: Status) -> None:
        """Replace the status of an object as it was read."""
        memory = self._memories.setdefault(cache.metadata.uid, ObjectMemory(cache.name))
        fresh: dict[str, JSON] = msgspec.to_builtins(status)
        stale = objects.at(item, "status")
        known = (stale if isinstance(stale, dict) else {}, msgspec.to_builtins(memory.status) if memory.status else {})
        patch: Object = {"status": objects.replacing(fresh, *known)}
        written = await self._kube.patch(IMAGE_CACHES, cache.name, patch, subresource="status")
        memory.version = objects.resource_version(written)
        if self._dependencies.role is Role.CLUSTER:
            memory.status = status
        memory.written = self._dependencies.clock.monotonic()

    async def flush(self) -> None:
        """Write the matches that are in no status yet: the work has been stopped, and this controller still leads.

        Only these two fields, by their numbers: a write that was cut short may have come to the API server or not.
        """

        async def write(name: str, found: Matches) -> None:
            item = self.informers.caches.get(name)
            if item is None:
                return
            cache = parse.stored(item).cache
            memory = self._memories.get(cache.metadata.uid)
            before = self._as_written(cache, memory).status if memory is not None else cache.status
            if before is None:
                return
            after = usage.matched(before, found)
            fields: Object = {"lastMatchedTime": after.last_matched_time, "matches": after.matches}
            try:
                await self._kube.patch(IMAGE_CACHES, name, {"status": fields}, subresource="status")
            except KubernetesError as error:
                _log.warning("matches not written", name=name, problem=str(error))

        await finish_all(*(write(name, found) for name, found in self._matches.pending.items()))

    async def _delete_bundle(self, bundle_id: str) -> None:
        try:
            await asyncio.to_thread(self._dependencies.store.delete, bundle_id)
        except NotFound:
            return
        except StoreError as error:
            if self._dependencies.role is not Role.CLUSTER:
                raise  # an object that stays is what a command, or the next agent, finds the bundle by
            _log.warning("bundle not deleted, will try again", bundle=bundle_id, problem=str(error))
            self._orphans.add(bundle_id)
            asyncio.get_running_loop().call_later(SOON, self._freed.set)
        else:
            self._freed.set()

    async def _collect(self) -> None:
        """Collect what nobody needs after bundles were deleted, and retry those that could not be."""
        while True:
            await self._freed.wait()
            await asyncio.sleep(_COLLECT_PAUSE)
            self._freed.clear()
            orphans, self._orphans = self._orphans, set()
            for bundle_id in orphans:
                await self._delete_bundle(bundle_id)
            try:
                collected = await asyncio.to_thread(self._dependencies.store.collect)
            except StoreError as error:
                _log.warning("collection failed", problem=str(error))
            else:
                _log.info("collected", bytes=collected.freed)


def _is_before(version: str, other: str) -> bool:
    """Whether a resourceVersion is an earlier one of the same object, which API conventions allow to ask."""
    if version.isdigit() and other.isdigit():
        return int(version) < int(other)
    return version != other
