"""What to do about one ImageCache: a pure function of the object, what is observed around it and the time.

Level-style: it never asks what happened, only what is. So it may be called at any time, any number of times, by a
controller that has just started, and comes to the same end. It must not do I/O.
"""

from __future__ import annotations

import datetime as dt

import msgspec

from imagecache.api import assignment, building, columns, events, ids, nodes, phases, times
from imagecache.api.building import BuildRequest
from imagecache.api.effective_spec import EffectiveSpec, effective_spec
from imagecache.api.types import Display, Event, ImageCache, Phase, Status
from imagecache.controller.decision import (
    Action,
    AddFinalizer,
    Broken,
    Decision,
    DeleteBundle,
    DeleteObject,
    ObservedState,
    RemoveFinalizer,
    Running,
    StartBuild,
    StopBuild,
)
from imagecache.errors import AccessDenied, ImageCacheError, InvalidManifest, StoreBusy, Unauthenticated
from imagecache.store.model import Bundle

SOON = 5.0
"""Seconds until a wait for a secret, a lock or the store is looked at again."""
HEAL = 15.0
"""Seconds between two looks at the secrets of a cache that a registry refused."""
_CREDENTIALS = (Unauthenticated.__name__, AccessDenied.__name__)


def decide(cache: ImageCache, observed: ObservedState, now: dt.datetime) -> Decision:
    """The next step. See ``Decision`` for the order in which it is carried out."""
    status = cache.status
    if cache.metadata.deletion_timestamp:
        return _delete(cache)
    if status is not None and phases.expired(status, now):
        told = events.event("Expired", "Image cache has expired and is deleted", about=cache.name, now=now)
        return Decision(status, (DeleteObject(),), (told,), again=SOON)
    return _Step(cache, observed, now).run()


def bundle_ids(cache: ImageCache) -> tuple[str, ...]:
    """The bundles that matter to a decision: the one in the status, and that of a build of this generation.

    A deletion counts as a generation of its own, so the one before is named too.
    """
    uid, generation = cache.metadata.uid, cache.metadata.generation
    found = [cache.status.image_cache_id] if cache.status else []
    found += [ids.derived_cache_id(uid, number) for number in (generation, generation - 1)]
    return tuple(dict.fromkeys(filter(None, found)))


def needs_secrets(cache: ImageCache, build: object) -> bool:
    """Whether the secrets must be read before deciding: nothing is running, and something may have to."""
    return build is None and not (cache.status and cache.status.phase is Phase.READY)


def _delete(cache: ImageCache) -> Decision:
    """Nothing here waits for a node, an agent or the store, so nothing can keep an object from going."""
    if nodes.FINALIZER not in cache.metadata.finalizers:
        return Decision(cache.status, (StopBuild(),))
    bundles = (DeleteBundle(name) for name in bundle_ids(cache))
    return Decision(cache.status, (StopBuild(), *bundles, RemoveFinalizer()))


class _Step:
    """One decision in the making: the status so far, and what goes with it."""

    def __init__(self, cache: ImageCache, observed: ObservedState, now: dt.datetime) -> None:
        self.cache = cache
        self.observed = observed
        self.now = now
        self.generation = cache.metadata.generation
        self.target = ids.derived_cache_id(cache.metadata.uid, self.generation)
        self.actions: list[Action] = []
        self.events: list[Event] = []
        self.again: float | None = None
        self.status = cache.status or phases.begin(self.target, self.generation, now)

    def run(self) -> Decision:
        if nodes.FINALIZER not in self.cache.metadata.finalizers:
            self.actions.append(AddFinalizer())
        for event in self.observed.told:
            self.add(event)
        wanted: EffectiveSpec | None = None
        try:
            wanted = self.interpret()
        except InvalidManifest as error:
            self.refuse(error)
        else:
            if self.cache.status is None:
                self.note(wanted)
            self.follow(wanted)
        self.sum_up(wanted)
        return Decision(self.changed(), tuple(self.actions), tuple(self.events), self.until_expiry())

    def interpret(self) -> EffectiveSpec:
        """Raises InvalidManifest."""
        if self.observed.malformed is not None:
            raise self.observed.malformed
        return effective_spec(self.cache, architecture=self.observed.architecture)

    def follow(self, wanted: EffectiveSpec) -> None:
        if self.observed.store_problem is not None:
            self.again = SOON
            return
        match self.status.phase:
            case Phase.PENDING | Phase.CREATING:
                self.create(wanted)
            case Phase.READY:
                self.keep(wanted)
            case Phase.UPDATING:
                self.update(wanted)
            case Phase.FAILED | Phase.UPDATE_FAILED:
                self.heal(wanted)

    # one phase each

    def create(self, wanted: EffectiveSpec) -> None:
        request = building.request(self.status.image_cache_id, wanted)
        document = self.observed.bundles.get(request.bundle_id)
        if document is not None and _has(document, request):
            self.ready(document, wanted)
            return
        if document is not None:  # the spec changed while it was being built
            self.actions.append(DeleteBundle(document.id))
        self.build(request)

    def keep(self, wanted: EffectiveSpec) -> None:
        """Ready: as it is, unless the spec asks for other images or the bundle is gone."""
        request = building.request(self.status.image_cache_id, wanted)
        document = self.observed.bundles.get(request.bundle_id)
        changed = phases.observed(self.status, "Ready") != self.generation
        if document is not None and not (changed and not _has(document, request)):
            self.status = phases.kept(self.status, self.generation, self.now, retention_days=wanted.retention_days)
            return
        self.status = phases.update(self.status, self.generation, self.now)
        why = "the spec asks for other images" if document else "the store has lost it"
        self.tell("Updating", f"Image cache is built again: {why}")
        self.note(wanted)
        self.update(wanted)

    def update(self, wanted: EffectiveSpec) -> None:
        """Updating: the old bundle serves until the new one, which has an id of its own, is there."""
        old = self.observed.bundles.get(self.status.image_cache_id)
        request = building.request(self.target if old is not None else self.status.image_cache_id, wanted)
        new = self.observed.bundles.get(request.bundle_id)
        if old is not None and _has(old, request):
            self.actions.append(StopBuild())
            self.ready(old, wanted)
        elif new is not None and _has(new, request):
            before = self.status.image_cache_id
            self.status = msgspec.structs.replace(self.status, image_cache_id=new.id)
            self.ready(new, wanted)
            self.actions.append(DeleteBundle(before))
        else:
            earlier = ids.derived_cache_id(self.cache.metadata.uid, phases.observed(self.status))
            if earlier in self.observed.bundles and earlier not in {self.status.image_cache_id, request.bundle_id}:
                self.actions.append(DeleteBundle(earlier))
            self.build(request)

    def heal(self, wanted: EffectiveSpec) -> None:
        """Failed: once more when the spec is another one, or the secrets are, or what it asked for is allowed now."""
        reason = self.status.reason.partition(":")[0]
        changed = phases.observed(self.status) != self.generation
        refused = reason in _CREDENTIALS and bool(wanted.pull_secrets)
        fixed = refused and self.observed.secrets_changed and self.observed.secrets_problem is None
        if changed or fixed or reason == InvalidManifest.__name__:
            self.retry(wanted, restart=changed, why="the spec changed" if changed else "what it needs was corrected")
        elif refused:
            self.again = HEAL

    def retry(self, wanted: EffectiveSpec, *, restart: bool, why: str) -> None:
        self.tell("Retrying", f"Image cache is built once more: {why}")
        self.note(wanted)
        if self.status.phase is Phase.UPDATE_FAILED:
            self.status = phases.update(self.status, self.generation, self.now)
            self.update(wanted)
        else:
            self.status = phases.retry(self.status, self.generation, self.now, restart=restart)
            self.create(wanted)

    # what a phase comes to

    def build(self, request: BuildRequest) -> None:
        """Start it, follow it, or take in how it failed."""
        build = self.observed.build
        if build is not None and build.request == request:
            if isinstance(build, Broken):
                self.fail(build.error)
            elif build.total:
                self.status = phases.advance(self.status, build.done, build.total, self.now)
            return
        if isinstance(build, Running):
            self.actions.append(StopBuild())  # it makes what nobody asks for any more
            self.status = msgspec.structs.replace(self.status, progress="0%")
        if self.observed.secrets_problem is not None:
            self.wait(self.observed.secrets_problem)
            return
        self.status = phases.started(self.status, self.generation, self.now)
        self.actions.append(StartBuild(request))

    def ready(self, document: Bundle, wanted: EffectiveSpec) -> None:
        self.status = building.ready(self.status, self.generation, self.now, document, wanted.retention_days)
        self.tell("Ready", building.summary(document))

    def fail(self, error: ImageCacheError) -> None:
        self.actions.append(StopBuild())
        if isinstance(error, StoreBusy):
            self.wait(error)
            return
        message = building.explain(error)
        self.tell(error.reason, message, about=error.image, kind=events.WARNING)
        self.status = phases.failed(self.status, self.generation, self.now, reason=error.reason, message=message)

    def wait(self, error: ImageCacheError) -> None:
        message = building.explain(error)
        if self.status.reason != f"{error.reason}: {message}":
            self.tell(error.reason, message, kind=events.WARNING)
        self.status = phases.waiting(self.status, self.generation, self.now, reason=error.reason, message=message)
        self.again = SOON

    def refuse(self, error: InvalidManifest) -> None:
        """What it asks for cannot be: failed at once; old content goes on serving."""
        reason = f"{error.reason}: {building.explain(error)}"
        failed = {Phase.FAILED, Phase.UPDATE_FAILED}
        if self.status.phase in failed:
            if self.status.reason == reason and phases.observed(self.status) == self.generation:
                return
            phase = Phase.UPDATING if self.status.phase is Phase.UPDATE_FAILED else Phase.PENDING
            self.status = msgspec.structs.replace(self.status, phase=phase)
        elif self.status.phase is Phase.READY:
            self.status = phases.update(self.status, self.generation, self.now)
        self.fail(error)

    def sum_up(self, wanted: EffectiveSpec | None) -> None:
        """Counts, columns and the condition Degraded, whatever the phase."""
        status, before = self.status, self.status.nodes
        if wanted is not None:
            counts = assignment.counts(self.cache.name, status.image_cache_id, wanted.nodes, self.observed.nodes)
            complete = status.phase is Phase.READY and 0 < counts.desired == counts.ready
            if complete and not (before and before.desired == before.ready > 0):
                self.tell("NodesReady", f"Usable on {columns.count(counts.ready, 'node')}")
            status = msgspec.structs.replace(self.status, nodes=counts)
        shown = status.nodes
        self.status = msgspec.structs.replace(
            phases.degraded(status, self.generation, self.now, **self.degraded(status)),
            display=Display(
                nodes=f"{shown.ready}/{shown.desired}" if shown else "",
                size=columns.size(status.size) if status.size else "",
            ),
        )

    def degraded(self, status: Status) -> dict[str, str]:
        if self.observed.store_problem is not None:
            problem = self.observed.store_problem
            return {"reason": problem.reason, "message": building.explain(problem)}
        if status.phase is Phase.UPDATE_FAILED:
            return {"reason": "UpdateFailed", "message": status.reason}
        if status.nodes and status.nodes.failed and status.phase in assignment.SERVING:
            message = f"{status.nodes.failed} of {status.nodes.desired} nodes; see kubectl get nodeimagecaches"
            return {"reason": "NodesFailed", "message": message}
        return {}

    # the diary

    def tell(self, reason: str, message: str, *, about: str = "", kind: str = events.NORMAL) -> None:
        self.add(events.event(reason, message, about=about or self.cache.name, now=self.now, kind=kind))

    def add(self, event: Event) -> None:
        self.events.append(event)
        self.status = msgspec.structs.replace(self.status, events=events.append(self.status.events, event))

    def note(self, wanted: EffectiveSpec) -> None:
        """What was ignored, once for each build."""
        for note in (*self.observed.notes, *wanted.notes):
            self.tell("Noted", note)

    def changed(self) -> Status:
        """The new status, or the very same object when only times would differ."""
        before = self.cache.status
        if before is not None:
            same = msgspec.structs.replace(self.status, last_updated_time=before.last_updated_time)
            if same == before:
                return before
        return msgspec.structs.replace(self.status, last_updated_time=times.render(self.now))

    def until_expiry(self) -> float | None:
        if not self.status.expire_date_time:
            return self.again
        left = (times.parse(self.status.expire_date_time) - self.now).total_seconds()
        return max(0.0, min(left, self.again if self.again is not None else left))


def _has(document: Bundle, request: BuildRequest) -> bool:
    """Whether a bundle is what a request asks for."""
    return tuple(image.reference for image in document.images) == request.images
