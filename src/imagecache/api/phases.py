"""Transitions of ``status``: phase, progress, times, conditions.

Pure: status in, status out; ``TRANSITIONS`` is the drawing of docs/internals/status.md. What became of the last build
is state, kept in the condition Building; Ready, Reconciling and Stalled follow from it and the phase, so that they can
never contradict each other. Messages may be anyone's text, so each becomes one printable line of bounded length. It
must not do I/O and must not know why something failed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import msgspec

from imagecache.api import times
from imagecache.api.types import Attempt, Condition, Phase, Status, StatusImage
from imagecache.written import printable

FAILED_KEPT = dt.timedelta(hours=24)
"""How long a failed cache is kept, whatever its retention (eci-api §5.4)."""
FAILED = frozenset({Phase.FAILED, Phase.UPDATE_FAILED})
UNFINISHED = frozenset({Phase.PENDING, Phase.CREATING, Phase.UPDATING})
IDLE = frozenset({Phase.READY, Phase.UPDATE_FAILED})
"""Something serves, and nothing is built."""
INTERRUPTED = "Interrupted"
"""Reason of a build that a person stopped."""

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.PENDING: frozenset({Phase.PENDING, Phase.CREATING, Phase.READY, Phase.FAILED}),
    Phase.CREATING: frozenset({Phase.CREATING, Phase.PENDING, Phase.READY, Phase.FAILED}),
    Phase.READY: frozenset({Phase.READY, Phase.UPDATING}),
    Phase.FAILED: frozenset({Phase.PENDING}),
    Phase.UPDATING: frozenset({Phase.UPDATING, Phase.READY, Phase.UPDATE_FAILED}),
    Phase.UPDATE_FAILED: frozenset({Phase.UPDATING}),
}


def begin(cache_id: str, generation: int, now: dt.datetime, *, progress: str = "0%") -> Status:
    """The status of a cache whose build starts: Pending."""
    status = Status(
        phase=Phase.PENDING,
        progress=progress,
        image_cache_id=cache_id,
        start_time=times.render(now),
        last_updated_time=times.render(now),
    )
    return _conditions(status, generation, now, ("True", "Started", ""))


def retry(status: Status, generation: int, now: dt.datetime, *, restart: bool) -> Status:
    """Pending again with the same id, events and use; ``restart`` when it is asked for another content: from 0 %."""
    _check(status, Phase.PENDING)
    fresh = begin(status.image_cache_id, generation, now, progress="0%" if restart else status.progress)
    conditions = status.conditions
    for condition in fresh.conditions:
        conditions = set_condition(conditions, condition)
    return msgspec.structs.replace(
        fresh,
        events=status.events,
        conditions=conditions,
        last_matched_time=status.last_matched_time,
        matches=status.matches,
    )


def started(
    status: Status, generation: int, now: dt.datetime, *, attempt: Attempt | None = None, by_agent: bool = False
) -> Status:
    """The build starts or continues: the phase stays. ``by_agent``: that of a plain host.

    After failures of the attempt its reason stays until something is fetched: to learn that a registry is still away
    may take as long as the pauses between tries.
    """
    problem = _problem(status) if attempt is not None and (attempt.failures or attempt.faults) else ""
    status = msgspec.structs.replace(status, reason=problem, attempt=attempt, last_updated_time=times.render(now))
    return _conditions(status, generation, now, ("True", "StartedByAgent" if by_agent else "Started", problem))


def _problem(status: Status) -> str:
    """``Reason: message`` of the try that was last, in the condition Building; empty without one."""
    building = condition(status, "Building")
    if building is None or not building.message or building.reason == INTERRUPTED:
        return ""
    return building.message if building.status == "True" else printable(f"{building.reason}: {building.message}")


def waiting(status: Status, generation: int, now: dt.datetime, *, reason: str, message: str) -> Status:
    """The build waits for something and starts without anyone's help: Pending, or still Updating."""
    status = msgspec.structs.replace(
        status,
        phase=Phase.UPDATING if status.phase is Phase.UPDATING else Phase.PENDING,
        reason=printable(f"{reason}: {message}"),
        last_updated_time=times.render(now),
    )
    return _conditions(status, generation, now, ("False", reason, message))


def advance(status: Status, done: int, total: int, now: dt.datetime) -> Status:
    """Creating (or still Updating), at ``done`` of ``total`` bytes. Progress never decreases."""
    phase = Phase.UPDATING if status.phase is Phase.UPDATING else Phase.CREATING
    _check(status, phase)
    # at most 99: only ``ready`` says 100, when the bundle is committed
    progress = max(percent(status.progress), min(done * 100 // total if total else 0, 99))
    conditions, building = status.conditions, condition(status, "Building")
    if building is not None and building.message:
        conditions = set_condition(conditions, msgspec.structs.replace(building, message=""))
    return msgspec.structs.replace(
        status,
        phase=phase,
        progress=f"{progress}%",
        reason="",
        conditions=conditions,
        last_updated_time=times.render(now),
    )


def ready(
    status: Status,
    generation: int,
    now: dt.datetime,
    *,
    images: tuple[StatusImage, ...],
    size: int,
    retention_days: int | None,
) -> Status:
    """Ready, 100 %. ``retention_days`` of a first build count from now; None: never expires.

    Not from its start: it may have waited for a Secret or a registry for longer than that.

    Of a status that is Ready already it mends what differs.
    """
    _check(status, Phase.READY)
    first = status.phase in {Phase.PENDING, Phase.CREATING}
    status = msgspec.structs.replace(
        status,
        phase=Phase.READY,
        progress="100%",
        reason="",
        images=images,
        size=size,
        last_updated_time=times.render(now),
    )
    if first:
        status = _expiring(status, retention_days or 0, now)
    else:
        status = retained(status, now, retention_days=retention_days)
    return _conditions(status, generation, now, ("False", "Built", ""))


def retained(status: Status, now: dt.datetime, *, retention_days: int | None) -> Status:
    """The expiry of a bundle that serves. Days that are added or changed later count from that change.

    So a retention that is added to an old cache never deletes it at once. The same object when nothing changes.
    """
    days = retention_days or 0
    if days == status.retention_days and bool(days) == bool(status.expire_date_time):
        # an expiry before the retention has passed, or later than from now on, is not ours: somebody else has set it
        kept = dt.timedelta(days=days)
        if not days or times.parse(status.start_time) + kept <= times.parse(status.expire_date_time) <= now + kept:
            return status
    return _expiring(status, days, now)


def not_later(status: Status, now: dt.datetime, *, created: str = "") -> Status:
    """Its past is not later than now: a clock was set back, or somebody else has written it. As a rule the same object.

    Otherwise what counts from such a moment would be wrong at every look, and be written anew each time. Nor did
    anything start before the object was ``created``, unless that is later than now: then only the clocks differ.
    """
    stamp = times.render(now)  # moments of one form have the order of time as texts
    conditions = status.conditions
    if any(each.last_transition_time > stamp for each in conditions):
        conditions = tuple(
            msgspec.structs.replace(each, last_transition_time=min(each.last_transition_time, stamp))
            for each in conditions
        )
    earliest = created if status.start_time and created <= stamp else ""
    moments = (status.start_time, status.last_matched_time)
    if conditions is status.conditions and max(moments) <= stamp and status.start_time >= earliest:
        return status
    return msgspec.structs.replace(
        status,
        start_time=max(earliest, min(status.start_time, stamp)),
        last_matched_time=min(status.last_matched_time, stamp),
        conditions=conditions,
    )


def _expiring(status: Status, days: int, since: dt.datetime) -> Status:
    expiry = times.render(since + dt.timedelta(days=days)) if days else ""
    return msgspec.structs.replace(status, expire_date_time=expiry, retention_days=days)


def failed(status: Status, generation: int, now: dt.datetime, *, reason: str, message: str) -> Status:
    """Failed; or UpdateFailed, while the old bundle serves. ``reason`` is CamelCase, ``message`` for people."""
    updating = status.phase is Phase.UPDATING
    phase = Phase.UPDATE_FAILED if updating else Phase.FAILED
    _check(status, phase)
    status = msgspec.structs.replace(
        status, phase=phase, reason=printable(f"{reason}: {message}"), last_updated_time=times.render(now)
    )
    if not updating:  # a failed update keeps the expiry of the bundle that still serves
        status = msgspec.structs.replace(status, expire_date_time=times.render(now + FAILED_KEPT), retention_days=0)
    return _conditions(status, generation, now, ("False", reason, message))


def failed_until(status: Status, now: dt.datetime) -> Status:
    """A failed cache with its expiry; one that is missing, or not of a day after the failure, is not ours."""
    since = condition(status, "Building")
    kept = times.parse(since.last_transition_time) + FAILED_KEPT if since is not None else now
    if status.expire_date_time and kept <= times.parse(status.expire_date_time) <= now + FAILED_KEPT:
        return status
    return msgspec.structs.replace(status, expire_date_time=times.render(now + FAILED_KEPT))


def interrupted(status: Status, generation: int, now: dt.datetime) -> Status:
    """Stopped by the user: the phase stays, nothing is being built, the same command continues."""
    status = msgspec.structs.replace(status, last_updated_time=times.render(now))
    message = "stopped; downloaded data is kept, the same command continues from there"
    return _conditions(status, generation, now, ("False", INTERRUPTED, message))


def update(status: Status, generation: int, now: dt.datetime) -> Status:
    """Updating: a new bundle is built while the old one serves (eci-api §5.4, §6)."""
    _check(status, Phase.UPDATING)
    status = msgspec.structs.replace(
        status, phase=Phase.UPDATING, progress="0%", reason="", last_updated_time=times.render(now)
    )
    return _conditions(status, generation, now, ("True", "Started", ""))


def serving(status: Status, generation: int, now: dt.datetime, *, reason: str, message: str = "") -> Status:
    """The condition Serving: whether the store has a bundle for nodes, the wanted one or an older one.

    ``reason``: Built, Updating or UpdateFailed when it has; any other when it has none.
    """
    value = "True" if reason in {"Built", "Updating", "UpdateFailed"} else "False"
    return _with(status, [("Serving", (value, reason, message))], generation, now)


def degraded(status: Status, generation: int, now: dt.datetime, *, reason: str = "", message: str = "") -> Status:
    """The condition Degraded: usable, but not as it should be. Without a reason it is False."""
    value = "True" if reason else "False"
    return _with(status, [("Degraded", (value, reason or "AsExpected", message))], generation, now)


def tag_drifted(status: Status, generation: int, now: dt.datetime, *, message: str) -> Status:
    """The condition TagDrifted: whether a tag names something else than was built. Without a message none does."""
    value, reason = ("True", "TagMoved") if message else ("False", "AsExpected")
    return _with(status, [("TagDrifted", (value, reason, message))], generation, now)


def name_taken(status: Status, generation: int, now: dt.datetime, *, message: str) -> Status:
    """The condition NameTaken: whether another ImageCache owns names of its images on nodes. Once it was, it stays."""
    if not message and condition(status, "NameTaken") is None:
        return status
    value, reason = ("True", "NameOwned") if message else ("False", "AsExpected")
    return _with(status, [("NameTaken", (value, reason, message))], generation, now)


def observed(status: Status, generation: int, now: dt.datetime) -> Status:
    """The whole status is about this generation of the spec; what somebody else has set is that of the build again."""
    building = condition(status, "Building")
    if building is not None:
        status = _conditions(status, generation, now, (building.status, building.reason, building.message))
        status = msgspec.structs.replace(status, reason=_problem(status))
    conditions = status.conditions
    if any(each.observed_generation != generation for each in conditions):
        conditions = tuple(msgspec.structs.replace(each, observed_generation=generation) for each in conditions)
    return msgspec.structs.replace(status, observed_generation=generation, conditions=conditions)


def outcome(status: Status) -> tuple[str, str]:
    """Reason and message of the build: why it failed, what it waits for, or ``Started``, ``Built``, ``Interrupted``."""
    found = condition(status, "Building")
    return (found.reason, found.message) if found else ("", "")


def failure(status: Status) -> str:
    """CamelCase reason of a failed build or update; empty when none has failed."""
    return outcome(status)[0] if status.phase in FAILED else ""


def left_by_command(status: Status) -> bool:
    """Whether a build that a person's command began is not finished; the same command continues it."""
    return status.phase in UNFINISHED and outcome(status)[0] in {"Started", INTERRUPTED}


def percent(progress: str) -> int:
    """``42%`` as 42."""
    return int(progress.removesuffix("%"))


def expired(status: Status, now: dt.datetime) -> bool:
    return bool(status.expire_date_time) and times.parse(status.expire_date_time) <= now


def condition(status: Status, kind: str) -> Condition | None:
    return next((entry for entry in status.conditions if entry.type == kind), None)


def set_condition(conditions: tuple[Condition, ...], new: Condition) -> tuple[Condition, ...]:
    """Replace the condition of that type; its transition time moves only when its status does (metav1.Condition)."""
    for index, old in enumerate(conditions):
        if old.type == new.type:
            if old.status == new.status:
                new = msgspec.structs.replace(new, last_transition_time=old.last_transition_time)
            return (*conditions[:index], new, *conditions[index + 1 :])
    return (*conditions, new)


def _check(status: Status, target: Phase) -> None:
    if target not in TRANSITIONS[status.phase]:
        raise ValueError(f"no transition from {status.phase.value} to {target.value}")


_Outcome = tuple[str, str, str]
"""Status, reason and message of a condition."""


def _conditions(status: Status, generation: int, now: dt.datetime, building: _Outcome) -> Status:
    """Building as given, and what follows from it and the phase. Source of the words: cli-utils, pkg/kstatus.

    Reconciling and Stalled are there when they are False too, so that ``kubectl wait`` can wait for that.
    """
    value, reason, message = building
    if status.phase is Phase.READY:
        usable, doing, stuck = ("True", "Built", ""), ("False", "Built", ""), ("False", "Built", "")
    elif status.phase in FAILED or reason == INTERRUPTED:
        usable, doing, stuck = ("False", reason, message), ("False", reason, ""), ("True", reason, message)
    elif value == "True":
        running = "Updating" if status.phase is Phase.UPDATING else "Building"
        usable = ("False", running, "the bundle of this generation is being built")
        doing, stuck = ("True", *usable[1:]), ("False", running, "")
    else:
        usable, doing, stuck = ("False", reason, message), ("True", reason, message), ("False", reason, "")
    found = (("Ready", usable), ("Building", building), ("Reconciling", doing), ("Stalled", stuck))
    return _with(status, found, generation, now)


def _with(status: Status, found: Iterable[tuple[str, _Outcome]], generation: int, now: dt.datetime) -> Status:
    """With these conditions; each look has them all anew, so they are put into the status at once."""
    conditions, stamp = status.conditions, times.render(now)
    for kind, (value, reason, message) in found:
        new = Condition(
            type=kind,
            status=value,
            reason=reason,
            message=printable(message),
            last_transition_time=stamp,
            observed_generation=generation,
        )
        conditions = set_condition(conditions, new)
    return msgspec.structs.replace(status, conditions=conditions)
