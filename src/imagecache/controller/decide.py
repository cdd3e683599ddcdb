"""What to do about one ImageCache: a pure function of the object, the observed state around it and the time.

Level-style: it looks at what is, never at what happened. So it may be called at any time and any number of times, also
by a controller that has just started, and always leads to the same end (docs/internals/status.md has the table). It
must not do I/O.
"""

from __future__ import annotations

import datetime as dt

from msgspec.structs import replace

from imagecache.api import assignment, building, columns, events, nodes, phases, tags, times, usage
from imagecache.api.building import BuildRequest
from imagecache.api.effective_spec import EffectiveSpec, effective_spec
from imagecache.api.types import Attempt, Display, Event, ImageCache, Phase, Status
from imagecache.controller import attempts, choice, deletion, failures, summary, unused
from imagecache.controller.decision import (
    CONFIGURATION,
    Action,
    AddFinalizer,
    Broken,
    Build,
    Decision,
    DeleteBundle,
    DeleteObject,
    Ended,
    ObservedState,
    Role,
    Running,
    StartBuild,
    StopBuild,
)
from imagecache.errors import ImageCacheError, InvalidManifest, PullSecretUnavailable, QuotaExceeded, by_name
from imagecache.store.bundle_document import Bundle

SOON = 5.0
"""Seconds until something that should be over in a moment is looked at again: a lock, a deletion, a store."""
LATER = 60.0
"""Seconds between two looks at a store that has been away for longer."""
SETTLED = dt.timedelta(hours=1)
"""A bundle that was there for so long and is lost then has nothing to do with one that is lost at once."""
_NOTES = 20
"""At most that many are recorded: the status keeps fifty events, and what it no longer has is recorded again."""
_NO_SECRET = PullSecretUnavailable.__name__


def decide(cache: ImageCache, observed: ObservedState, now: dt.datetime) -> Decision:
    """The next step. See ``Decision`` for the order in which it is carried out."""
    if cache.metadata.deletion_timestamp:
        return deletion.decide(cache, observed)
    return _Draft(cache, observed, now).decide()


class _Draft:
    """One decision in the making: the status so far, and what goes with it."""

    def __init__(self, cache: ImageCache, observed: ObservedState, now: dt.datetime) -> None:
        self.cache = cache
        self.observed = observed
        self.now = now
        self.generation = cache.metadata.generation
        self.actions: list[Action] = []
        self.events: list[Event] = []
        self.again: float | None = None
        self.problem: ImageCacheError | None = None
        self.decided = cache.status is None
        """The status is about this generation from now on."""
        built = observed.build.request.bundle_id if observed.build is not None else ""
        self.status = choice.believed(cache, observed.bundles, now, built)
        self.bundles = choice.genuine(self.status, observed.bundles)
        self.replaced = len(self.bundles) < len(observed.bundles)  # of the bundle that serves

    def decide(self) -> Decision:
        self.take_over()
        spec: EffectiveSpec | None = None
        try:
            if self.observed.malformed is not None:
                raise self.observed.malformed
            spec = effective_spec(self.cache, architectures=self.observed.architectures, now=self.now)
        except InvalidManifest as error:
            if self.observed.role is not Role.NODE:
                self.refuse(error)
        else:
            if self.observed.role is not Role.NODE:
                self.advance(spec)
        self.status = unused.expiring(self.cache, self.status, self.observed.role)
        if (farewell := self.farewell()) is not None:
            return Decision(self.cache.status, (DeleteObject(),), (farewell,), again=SOON)
        self.summarise(spec)
        return Decision(
            self.changed_status(),
            tuple(self.actions),
            tuple(self.events),
            self.next_look(spec),
            self.watches(spec),
            self.problem,
        )

    def take_over(self) -> None:
        """What has happened since the last look, whatever follows from the rest."""
        if nodes.FINALIZER not in self.cache.metadata.finalizers:
            self.actions.append(AddFinalizer())
        for event in self.observed.events:
            self.add(event)
        if self.observed.matches is not None:
            self.status = usage.matched(self.status, self.observed.matches)
        self.status = tags.checked(self.status, self.observed.tags)

    def advance(self, spec: EffectiveSpec) -> None:
        self.record_notes(spec)
        if spec.schedule_problem and not events.has(self.status.events, "InvalidSchedule", spec.schedule_problem):
            self.record("InvalidSchedule", spec.schedule_problem, kind=events.WARNING)
        self.limit(spec.retention_days)
        if self.observed.store_problem is not None:
            self.without_store(self.observed.store_problem)
            return
        self.decided = True
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
        before, attempt = self.cache.status, self.attempt
        asked = self.observed.requested and self.observed.build is None
        if asked and before is not None and before.phase not in phases.FAILED:
            # the retention counts from when a person asks for it, not from a build that was interrupted days ago
            restart = attempt.wanted != building.wanted(spec)
            self.status = phases.retry(self.status, self.generation, self.now, restart=restart)
            self.status = replace(self.status, attempt=attempts.fresh(attempt))
            if attempt.failures or attempt.faults:
                self.record("Retrying", "Image cache is built again: it was asked for again")
        found = self.find(spec)
        if found is not None:
            self.ready(found, spec)
        else:
            self.build(building.request(self.status.image_cache_id, spec), spec)

    def keep(self, spec: EffectiveSpec) -> None:
        """Ready: as it is, unless the spec asks for something else, the bundle is gone or overdue."""
        document = self.bundles.get(self.status.image_cache_id)
        differs = ""
        if document is not None:
            differs = building.difference(document, spec) or building.overdue(document, spec)
        if document is not None and not differs:
            self.take(document, spec)
            return
        found = self.find(spec)
        if found is not None:  # the status was set back to an earlier bundle
            self.ready(found, spec)
            return
        since = phases.condition(self.status, "Building")
        self.status = phases.update(self.status, self.generation, self.now)
        gone = "the store has another bundle of its id" if self.replaced else "the store has lost it"
        self.record("Updating", f"Image cache is built again: {differs or gone}")
        if document is not None or self.attempt.wanted != building.wanted(spec):
            self.update(spec)
        else:
            settled = since is None or self.now - times.parse(since.last_transition_time) > SETTLED
            self.lose(spec, faults=0 if settled or self.observed.requested else self.attempt.faults)

    def lose(self, spec: EffectiveSpec, *, faults: int) -> None:
        """The store has lost the bundle: it is built again at once, but not for ever."""
        error = failures.lost(self.status.image_cache_id)
        attempt = replace(self.tried(self.status.image_cache_id, spec), faults=faults)
        self.status = replace(self.status, attempt=attempt)
        if faults:
            self.fault(error, attempt)
        else:
            self.status = replace(self.status, attempt=replace(attempt, faults=1))
            self.update(spec)

    def update(self, spec: EffectiveSpec) -> None:
        """Updating: the old bundle serves until the new one, which has an id of its own, exists."""
        found = self.find(spec)
        if found is not None:
            self.ready(found, spec)
            return
        old = self.bundles.get(self.status.image_cache_id)
        serving = old.id if old is not None else ""
        self.build(building.request(self.target(spec, serving), spec), spec, serving)

    def recover(self, spec: EffectiveSpec) -> None:
        """Failed: retried when a person asks, or when what is wanted, or what it failed for, has changed."""
        why = self.why_again(spec)
        if why:
            self.retry(spec, why)
        elif self.observed.build is not None:
            self.actions.append(StopBuild())  # the status was set back to this

    def why_again(self, spec: EffectiveSpec) -> str:
        """Why what has failed is built again; empty: it is not."""
        reason, attempt = phases.failure(self.status), self.attempt
        readable = self.observed.secrets_problem is None
        corrected = reason == InvalidManifest.__name__ or (reason == _NO_SECRET and readable)
        if failures.is_of_access(reason):
            secrets = bool(spec.pull_secrets) and readable and self.observed.secrets != attempt.secrets
            corrected = secrets or self.observed.configuration != attempt.configuration
        if corrected:
            return "what it needs was corrected"
        if attempt.wanted != building.wanted(spec):
            return "it is asked for something else"
        since = phases.condition(self.status, "Building")
        # not a first build: what has failed must expire
        if since is not None and self.status.phase is Phase.UPDATE_FAILED and since.last_transition_time < spec.due:
            return f"its refresh schedule was due at {spec.due}"
        if self.observed.requested:
            return "it was asked for again"
        if self.find(spec) is not None:
            return "the store has its bundle"
        return "" if by_name(reason).__name__ == reason else "its status was set back"

    def retry(self, spec: EffectiveSpec, why: str) -> None:
        attempt = self.attempt
        self.record("Retrying", f"Image cache is tried again: {why}")
        if self.status.phase is Phase.UPDATE_FAILED:
            self.status = phases.update(self.status, self.generation, self.now)
            self.status = replace(self.status, attempt=attempts.fresh(attempt))
            self.update(spec)
        else:
            restart = attempt.wanted != building.wanted(spec)
            self.status = phases.retry(self.status, self.generation, self.now, restart=restart)
            self.status = replace(self.status, attempt=attempts.fresh(attempt))
            self.create(spec)

    # what a phase leads to

    def build(self, request: BuildRequest, spec: EffectiveSpec, serving: str = "") -> None:
        """Start it, follow it, or record how it ended. ``serving`` is the id of the bundle that stays meanwhile."""
        build, agent = self.observed.build, self.observed.role is Role.HOST_AGENT
        attempt = self.tried(request.bundle_id, spec)
        if build is not None and build.request == request:
            self.follow(build, attempt, spec, serving)
            return
        if build is not None:
            self.actions.append(StopBuild())  # the spec no longer asks for its bundle
        elif agent and (self.cache.status is None or phases.left_by_command(self.cache.status)):
            return
        if self.observed.refusal is not None:
            self.refuse_place(self.observed.refusal, request.bundle_id)
            return
        if self.observed.secrets_problem is not None:
            self.lack(self.observed.secrets_problem, attempt)
            return
        self.again = attempts.seconds_left(self.status, attempt, self.observed, self.now)
        if self.again is not None:
            return
        if self.attempt.wanted not in {"", attempt.wanted}:  # what was done of another content does not count
            self.status = replace(self.status, progress="0%")
        self.delete_others(serving)
        attempt = replace(attempt, next_time="")
        if request.bundle_id == self.status.image_cache_id:  # nothing serves: what is made is all that may have the id
            self.status = replace(self.status, bundle_digest="")
        self.status = phases.started(self.status, self.generation, self.now, attempt=attempt, by_agent=agent)
        self.actions.append(StartBuild(request))

    def follow(self, build: Build, attempt: Attempt, spec: EffectiveSpec, serving: str) -> None:
        match build:
            case Running(done=done, total=total):
                if self.attempt.image_cache_id != attempt.image_cache_id:  # the status was set back
                    self.status = replace(self.status, attempt=attempt)
                if total:
                    self.status = phases.advance(self.status, done, total, self.now)
            case Broken(error=QuotaExceeded() as error):
                self.actions.append(StopBuild())
                self.refuse_place(error, attempt.image_cache_id)
            case Broken(error=error, secrets=secrets):
                self.actions.append(StopBuild())
                attempt = attempts.with_causes(attempt, error, secrets, self.observed.configuration)
                if failures.is_transient(error):
                    self.put_off(error, replace(attempt, failures=attempt.failures + 1))
                elif failures.is_fault(error):
                    self.fault(error, attempt)
                else:
                    self.fail(error, attempt)
            case Ended(request=request):
                made = self.bundles.get(request.bundle_id)
                self.actions.append(StopBuild())
                self.delete_others(serving)
                self.fault(failures.mismatch(request.bundle_id, made, spec), attempt)

    def ready(self, document: Bundle, spec: EffectiveSpec) -> None:
        """A bundle is what the spec asks for: it serves from now on."""
        self.take(document, spec)
        for note in building.notes(document):
            self.record("Noted", note)
        self.record("Ready", building.summary(document))

    def take(self, document: Bundle, spec: EffectiveSpec) -> None:
        """Whatever the status said before: what is built now is of no use, and no other bundle is."""
        if self.observed.build is not None:
            self.actions.append(StopBuild())
        attempt = self.attempt
        if self.status.phase is not Phase.READY or attempt.image_cache_id != document.id or not attempt.wanted:
            attempt = self.tried(document.id, spec)  # while it is Ready, what changes nothing is not written either
        attempt = replace(attempts.fresh(attempt), faults=self.attempt.faults)
        known = self.status.images if document.id == self.status.image_cache_id else ()  # of its own tags alone
        self.status = replace(self.status, image_cache_id=document.id, attempt=attempt, images=known)
        self.status = building.ready(self.status, self.generation, self.now, document, spec.retention_days)
        self.delete_others(document.id)

    def delete_others(self, kept: str) -> None:
        """Delete the bundles of this object that do not serve: left by a process that was killed, or by an edit."""
        self.actions.extend(DeleteBundle(name) for name in self.observed.bundles if name != kept)

    def fault(self, error: ImageCacheError, attempt: Attempt) -> None:
        """It may work the next time, and nothing says that it will: a few times, then it has failed."""
        attempt = replace(attempt, faults=attempt.faults + 1)
        if attempt.faults < failures.TRIES:
            self.put_off(error, attempt)
        else:
            self.fail(error, attempt)

    def put_off(self, error: ImageCacheError, attempt: Attempt) -> None:
        """Tried again after a pause; the same command of a person tries at once."""
        self.again = failures.pause(error, max(1, attempt.failures, attempt.faults))
        self.wait(error, attempts.put_off(attempt, self.again, self.now))

    def fail(self, error: ImageCacheError, attempt: Attempt) -> None:
        message = building.explain(error)
        self.problem = error
        self.record(error.reason, message, about=error.image, kind=events.WARNING)
        self.status = phases.failed(self.status, self.generation, self.now, reason=error.reason, message=message)
        self.status = replace(self.status, attempt=replace(attempt, next_time=""))

    def lack(self, problem: ImageCacheError, attempt: Attempt) -> None:
        """A pull secret is missing: someone will create it, and then the build begins. A person's command says so."""
        if self.observed.role is Role.COMMAND:
            self.fail(problem, attempt)
        else:
            self.wait(problem, replace(attempt, next_time="", failures=0))

    def refuse_place(self, error: ImageCacheError, bundle_id: str) -> None:
        """No room: nothing was asked of a builder, and the attempt says so (``quota.state``)."""
        self.wait(error, Attempt(image_cache_id=bundle_id))

    def wait(self, error: ImageCacheError, attempt: Attempt) -> None:
        """What is lacking may come without a change of the object."""
        message = building.explain(error)
        self.problem = error
        if phases.outcome(self.status) != (error.reason, message):
            self.record(error.reason, message, about=error.image, kind=events.WARNING)
        self.status = phases.waiting(self.status, self.generation, self.now, reason=error.reason, message=message)
        self.status = replace(self.status, attempt=attempt)

    def without_store(self, problem: ImageCacheError) -> None:
        """Nothing can be said about what exists: content serves on, and what is not there yet waits."""
        waits = bool(self.attempt.next_time) or isinstance(self.observed.build, Running)
        if self.status.phase in phases.UNFINISHED and not waits:
            self.wait(problem, self.attempt)
        degraded = phases.condition(self.status, "Degraded")
        away = 0.0
        if degraded is not None and degraded.status == "True":
            away = (self.now - times.parse(degraded.last_transition_time)).total_seconds()
        self.problem, self.again = problem, max(SOON, min(LATER, away / 4))

    def refuse(self, error: InvalidManifest) -> None:
        """It asks for something that no build can make: it fails at once, and old content goes on serving."""
        self.decided = True
        self.limit(self.status.retention_days or None)  # what it asks for cannot be read: what serves keeps its own
        if self.status.phase in phases.FAILED:
            if phases.outcome(self.status) == (error.reason, building.explain(error)):
                return
            phase = Phase.UPDATING if self.status.phase is Phase.UPDATE_FAILED else Phase.PENDING
            self.status = replace(self.status, phase=phase)
        elif self.status.phase is Phase.READY:
            self.status = phases.update(self.status, self.generation, self.now)
        self.actions.append(StopBuild())
        self.fail(error, self.attempt)

    def limit(self, retention_days: int | None) -> None:
        """The expiry, whatever somebody else has written there; before anything is deleted by it."""
        if self.status.phase in assignment.SERVING:
            self.retain(retention_days)
        elif self.status.phase is Phase.FAILED:
            self.status = phases.failed_until(self.status, self.now)
        else:
            self.status = replace(self.status, expire_date_time="", retention_days=0)

    def retain(self, days: int | None) -> None:
        """The expiry of what serves. That it will be deleted is said in time: nobody asked for it when it was built."""
        self.status, before = phases.retained(self.status, self.now, retention_days=days), self.status
        if self.status is before:
            return
        if self.status.expire_date_time:
            self.record(
                "WillExpire",
                f"Image cache and object will be deleted at {self.status.expire_date_time}: retentionDays is "
                f"{days}, counted from now, because it was set after the build",
                kind=events.WARNING,
            )
        elif before.retention_days:
            self.record("WillNotExpire", "Image cache stays until it is deleted: it has no retentionDays any more")

    def farewell(self) -> Event | None:
        """The event of an object that is to be deleted; None: it stays."""
        if phases.expired(self.status, self.now) and self.observed.role is not Role.NODE:
            return self.event("Expired", "Image cache has expired and is deleted")
        why = self.observed.eviction if self.status.phase in phases.IDLE else ""
        return self.event("Evicted", f"Image cache is deleted: {why}") if why else None

    def summarise(self, spec: EffectiveSpec | None) -> None:
        """Counts, columns, conditions and the generation, whatever the phase."""
        status, before, nodes = self.status, self.status.nodes, self.observed.nodes
        if spec is not None and nodes is not None:
            counts = nodes.counts(self.cache.name, status.image_cache_id, spec.target(status))
            complete = status.phase is Phase.READY and 0 < counts.desired == counts.ready
            if complete and not (before and before.desired == before.ready > 0):
                self.record("NodesReady", f"Usable on {columns.count(counts.ready, 'node')}")
            status = replace(self.status, nodes=counts)
        shown = status.nodes
        display = Display(
            nodes=f"{shown.ready}/{shown.desired}" if shown else "",
            size=columns.size(status.size) if status.size else "",
        )
        status = replace(status, display=display)
        generation = self.generation if self.decided else status.observed_generation
        status = summary.with_conditions(status, self.cache, spec, self.observed, generation=generation, now=self.now)
        self.status = phases.observed(status, generation, self.now) if self.decided else status

    def watches(self, spec: EffectiveSpec | None) -> tuple[str, ...]:
        """What can end the wait or the failure without a change of the object."""
        reason = phases.outcome(self.status)[0]
        if spec is None or self.status.phase is Phase.READY:
            return ()
        if reason == _NO_SECRET:
            return spec.pull_secrets
        return (*spec.pull_secrets, CONFIGURATION) if failures.is_of_access(reason) else ()

    # what is known of the past

    @property
    def attempt(self) -> Attempt:
        return attempts.last(self.status)

    def tried(self, bundle_id: str, spec: EffectiveSpec) -> Attempt:
        return attempts.at(self.status, bundle_id, building.wanted(spec), self.observed)

    def target(self, spec: EffectiveSpec, serving: str) -> str:
        """The id of the bundle that an update makes."""
        attempt, serves = self.attempt, self.status.image_cache_id
        taken = {serving, serves if self.replaced else ""}
        if attempt.wanted == building.wanted(spec) and attempt.image_cache_id not in taken:
            return attempt.image_cache_id
        return choice.another(self.cache.metadata.uid, attempt, {*self.observed.bundles, serves})

    def find(self, spec: EffectiveSpec) -> Bundle | None:
        return choice.find(self.status, self.bundles, spec)

    # events and the end

    def record(self, reason: str, message: str, *, about: str = "", kind: str = events.NORMAL) -> None:
        self.add(self.event(reason, message, about=about, kind=kind))

    def event(self, reason: str, message: str, *, about: str = "", kind: str = events.NORMAL) -> Event:
        return events.event(reason, message, about=about or self.cache.name, now=self.now, kind=kind)

    def add(self, event: Event) -> None:
        self.events.append(event)
        self.status = replace(self.status, events=events.append(self.status.events, event))

    def record_notes(self, spec: EffectiveSpec) -> None:
        """What is ignored of the document, once: also of an annotation that comes later."""
        notes = (*self.observed.notes, *spec.notes)[:_NOTES]
        for note in notes:
            if not events.has(self.status.events, "Noted", note):
                self.record("Noted", note)

    def changed_status(self) -> Status:
        """The new status, or the very same object when only times would differ: then nothing is written."""
        before = self.cache.status
        if before is not None:
            same = replace(self.status, last_updated_time=before.last_updated_time)
            if same == before:
                return before
        return replace(self.status, last_updated_time=times.render(self.now))

    def next_look(self, spec: EffectiveSpec | None) -> float | None:
        """Seconds until time alone may lead to something else."""
        moments = [times.parse(self.status.expire_date_time)] if self.status.expire_date_time else []
        if spec is not None and spec.schedule is not None and self.status.phase not in phases.UNFINISHED:
            moments.append(spec.schedule.next(self.now))
        waits = [max(0.0, (moment - self.now).total_seconds()) for moment in moments]
        return min([*waits, *([self.again] if self.again is not None else [])], default=None)
