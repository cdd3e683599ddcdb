"""What to do about one ImageCache: a pure function of the object, the observed state around it and the time.

Level-style: it looks at what is, never at what happened. So it may be called at any time and any number of times, also
by a controller that has just started, and always leads to the same end. It must not do I/O.
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
    Role,
    Running,
    StartBuild,
    StopBuild,
)
from imagecache.errors import (
    AccessDenied,
    ImageCacheError,
    InvalidManifest,
    PullSecretUnavailable,
    StoreBusy,
    Unauthenticated,
)
from imagecache.store.bundle_document import Bundle

SOON = 5.0
"""Seconds until a wait for a secret, a lock or the store is looked at again."""
RECHECK = 15.0
"""Seconds between two looks at the secrets of a cache that a registry refused: each look is a get for each secret."""
_EARLIER = 16
"""Generations that a bundle which was left behind is looked for in."""
_REFUSED = frozenset({Unauthenticated.__name__, AccessDenied.__name__})
"""Reasons of a failure that other pull secrets can end."""


def decide(cache: ImageCache, observed: ObservedState, now: dt.datetime) -> Decision:
    """The next step. See ``Decision`` for the order in which it is carried out."""
    status = cache.status
    if cache.metadata.deletion_timestamp:
        return _delete(cache)
    if status is not None and phases.expired(status, now) and observed.role is not Role.NODE:
        expired = events.event("Expired", "Image cache has expired and is deleted", about=cache.name, now=now)
        return Decision(status, (DeleteObject(),), (expired,), again=SOON)
    return _Draft(cache, observed, now).decide()


def bundle_ids(cache: ImageCache) -> tuple[str, ...]:
    """The bundles that matter to a decision: the one in the status, and those of builds of the last generations.

    The earlier ones are there when a process was killed before it deleted them, perhaps several edits ago. A deletion
    counts as a generation of its own.
    """
    uid, generation = cache.metadata.uid, cache.metadata.generation
    found = [cache.status.image_cache_id] if cache.status else []
    numbers = (generation, *range(generation - 1, max(0, generation - _EARLIER), -1))
    found += [ids.derived_cache_id(uid, number) for number in numbers]
    return tuple(dict.fromkeys(filter(None, found)))


def needs_secrets(cache: ImageCache, build: object) -> bool:
    """Whether the secrets must be read before deciding: nothing is running, and something may have to."""
    return build is None and not (cache.status and cache.status.phase is Phase.READY)


def _delete(cache: ImageCache) -> Decision:
    """Nothing here waits for a node, an agent or the store, so nothing can keep an object from being deleted."""
    if nodes.FINALIZER not in cache.metadata.finalizers:
        return Decision(cache.status, (StopBuild(),))
    bundles = (DeleteBundle(name) for name in bundle_ids(cache))
    return Decision(cache.status, (StopBuild(), *bundles, RemoveFinalizer()))


class _Draft:
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
        self.problem: ImageCacheError | None = None
        self.status = cache.status or phases.begin(self.target, self.generation, now)

    def decide(self) -> Decision:
        if nodes.FINALIZER not in self.cache.metadata.finalizers:
            self.actions.append(AddFinalizer())
        for event in self.observed.events:
            self.add(event)
        spec: EffectiveSpec | None = None
        try:
            if self.observed.malformed is not None:
                raise self.observed.malformed
            spec = effective_spec(self.cache, architectures=self.observed.architectures)
        except InvalidManifest as error:
            if self.observed.role is not Role.NODE:
                self.refuse(error)
        else:
            if self.observed.role is not Role.NODE:
                self.advance(spec)
        self.summarise(spec)
        return Decision(
            self.changed_status(), tuple(self.actions), tuple(self.events), self.until_expiry(), self.problem
        )

    def advance(self, spec: EffectiveSpec) -> None:
        if self.cache.status is None:
            self.record_notes(spec)
        if self.observed.store_problem is not None:
            self.problem, self.again = self.observed.store_problem, SOON
            return
        match self.status.phase:
            case Phase.PENDING | Phase.CREATING:
                self.create(spec)
            case Phase.READY:
                self.keep(spec)
            case Phase.UPDATING:
                self.update(spec)
            case Phase.FAILED | Phase.UPDATE_FAILED:
                self.recover(spec)

    # one phase each

    def create(self, spec: EffectiveSpec) -> None:
        if self.cache.status is not None and self.observed.requested and self.observed.build is None:
            # the retention counts from when a person asks for it, not from a build that was interrupted days ago
            self.status = phases.retry(self.status, self.generation, self.now, restart=self.is_edited())
        request = building.request(self.status.image_cache_id, spec)
        document = self.observed.bundles.get(request.bundle_id)
        if document is not None and _has(document, spec):
            self.ready(document, spec)
            return
        if document is not None:  # the spec changed while it was being built
            self.actions.append(DeleteBundle(document.id))
        self.build(request)

    def keep(self, spec: EffectiveSpec) -> None:
        """Ready: as it is, unless the spec asks for other images or the bundle is gone."""
        document = self.observed.bundles.get(self.status.image_cache_id)
        edited = phases.observed(self.status, "Ready") != self.generation
        if document is not None and not (edited and not _has(document, spec)):
            self.status = phases.kept(self.status, self.generation, self.now, retention_days=spec.retention_days)
            self.delete_others(self.status.image_cache_id)
            return
        self.status = phases.update(self.status, self.generation, self.now)
        why = "the spec asks for other images" if document else "the store has lost it"
        self.record("Updating", f"Image cache is built again: {why}")
        self.record_notes(spec)
        self.update(spec)

    def update(self, spec: EffectiveSpec) -> None:
        """Updating: the old bundle serves until the new one, which has an id of its own, exists."""
        old = self.observed.bundles.get(self.status.image_cache_id)
        request = building.request(self.target if old is not None else self.status.image_cache_id, spec)
        new = self.observed.bundles.get(request.bundle_id)
        if old is not None and _has(old, spec):
            self.actions.append(StopBuild())
            self.ready(old, spec)
        elif new is not None and _has(new, spec):
            self.status = msgspec.structs.replace(self.status, image_cache_id=new.id)
            self.ready(new, spec)
            self.delete_others(new.id)
        else:
            # built for a generation that was replaced before its bundle was put into the status
            self.delete_others(self.status.image_cache_id, request.bundle_id)
            self.build(request)

    def recover(self, spec: EffectiveSpec) -> None:
        """Failed: retried when a person asks, or when the spec, the secrets or what is allowed has changed."""
        reason = phases.failure(self.status)
        readable = self.observed.secrets_problem is None
        refused = reason in _REFUSED and bool(spec.pull_secrets)
        if self.is_edited():
            self.retry(spec, restart=True, why="the spec changed")
        elif self.observed.requested:
            self.retry(spec, restart=False, why="it was asked for again")
        elif (
            (refused and self.observed.secrets_changed and readable)
            or (reason == PullSecretUnavailable.__name__ and readable)
            or reason == InvalidManifest.__name__  # it can be read now: an annotation was corrected
        ):
            self.retry(spec, restart=False, why="what it needs was corrected")
        elif refused or reason == PullSecretUnavailable.__name__:
            self.again = RECHECK

    def retry(self, spec: EffectiveSpec, *, restart: bool, why: str) -> None:
        self.record("Retrying", f"Image cache is built again: {why}")
        self.record_notes(spec)
        if self.status.phase is Phase.UPDATE_FAILED:
            self.status = phases.update(self.status, self.generation, self.now)
            self.update(spec)
        else:
            self.status = phases.retry(self.status, self.generation, self.now, restart=restart)
            self.create(spec)

    # what a phase leads to

    def build(self, request: BuildRequest) -> None:
        """Start it, follow it, or record how it failed."""
        build, agent = self.observed.build, self.observed.role is Role.HOST_AGENT
        if build is not None and build.request == request:
            if isinstance(build, Broken):
                self.broken(build.error)
            elif build.total:
                self.status = phases.advance(self.status, build.done, build.total, self.now)
            return
        if isinstance(build, Running):
            self.actions.append(StopBuild())  # the spec no longer asks for its bundle
            self.status = msgspec.structs.replace(self.status, progress="0%")
        elif agent and (self.cache.status is None or phases.left_by_command(self.cache.status)):
            return
        if self.observed.secrets_problem is not None:
            self.wait(self.observed.secrets_problem)
            return
        self.status = phases.started(self.status, self.generation, self.now, by_agent=agent)
        self.actions.append(StartBuild(request))

    def ready(self, document: Bundle, spec: EffectiveSpec) -> None:
        self.status = building.ready(self.status, self.generation, self.now, document, spec.retention_days)
        self.record("Ready", building.summary(document))

    def delete_others(self, *kept: str) -> None:
        """Delete the bundles of this object that neither serve nor are being built."""
        self.actions.extend(DeleteBundle(name) for name in self.observed.bundles if name not in kept)

    def broken(self, error: ImageCacheError) -> None:
        self.actions.append(StopBuild())
        if isinstance(error, StoreBusy):  # another process builds the same bundle, or a collection runs
            self.wait(error)
        else:
            self.fail(error)

    def fail(self, error: ImageCacheError) -> None:
        message = building.explain(error)
        self.problem = error
        self.record(error.reason, message, about=error.image, kind=events.WARNING)
        self.status = phases.failed(self.status, self.generation, self.now, reason=error.reason, message=message)

    def wait(self, error: ImageCacheError) -> None:
        """What is lacking may come without a change of the object."""
        if self.observed.role is Role.COMMAND:
            self.fail(error)
            return
        message = building.explain(error)
        self.problem, self.again = error, SOON
        if phases.outcome(self.status) != (error.reason, message):
            self.record(error.reason, message, kind=events.WARNING)
        self.status = phases.waiting(self.status, self.generation, self.now, reason=error.reason, message=message)

    def refuse(self, error: InvalidManifest) -> None:
        """It asks for something that no build can make: it fails at once, and old content goes on serving."""
        failed = {Phase.FAILED, Phase.UPDATE_FAILED}
        if self.status.phase in failed:
            known = phases.outcome(self.status) == (error.reason, building.explain(error))
            if known and not self.is_edited():
                return
            phase = Phase.UPDATING if self.status.phase is Phase.UPDATE_FAILED else Phase.PENDING
            self.status = msgspec.structs.replace(self.status, phase=phase)
        elif self.status.phase is Phase.READY:
            self.status = phases.update(self.status, self.generation, self.now)
        self.actions.append(StopBuild())
        self.fail(error)

    def summarise(self, spec: EffectiveSpec | None) -> None:
        """Counts, columns and the condition Degraded, whatever the phase."""
        status, before, views = self.status, self.status.nodes, self.observed.nodes
        if spec is not None and views is not None:
            counts = assignment.counts(self.cache.name, status.image_cache_id, spec.target(status), views)
            complete = status.phase is Phase.READY and 0 < counts.desired == counts.ready
            if complete and not (before and before.desired == before.ready > 0):
                self.record("NodesReady", f"Usable on {columns.count(counts.ready, 'node')}")
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
            in_cluster = self.observed.role is Role.CLUSTER
            where = "kubectl get nodeimagecaches -o yaml" if in_cluster else f"imagecache describe {self.cache.name}"
            message = f"{status.nodes.failed} of {columns.count(status.nodes.desired, 'node')}; see {where}"
            return {"reason": "NodesFailed", "message": message}
        return {}

    # what is known of the past

    def is_edited(self) -> bool:
        """Whether the status is about an earlier generation."""
        return phases.observed(self.status) != self.generation

    # events and the end

    def record(self, reason: str, message: str, *, about: str = "", kind: str = events.NORMAL) -> None:
        self.add(events.event(reason, message, about=about or self.cache.name, now=self.now, kind=kind))

    def add(self, event: Event) -> None:
        self.events.append(event)
        self.status = msgspec.structs.replace(self.status, events=events.append(self.status.events, event))

    def record_notes(self, spec: EffectiveSpec) -> None:
        """What is ignored of the document, once for each build."""
        for note in (*self.observed.notes, *spec.notes):
            self.record("Noted", note)

    def changed_status(self) -> Status:
        """The new status, or the very same object when only times would differ: then nothing is written."""
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


def _has(document: Bundle, spec: EffectiveSpec) -> bool:
    """Whether a bundle is what the spec asks for."""
    return building.is_asked_for(document, spec)
