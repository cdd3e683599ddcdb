"""Transitions of ``status``: phase, progress, times, conditions.

Pure: status in, status out; ``TRANSITIONS`` is the drawing of eci-api §5.1. Two additions: a failed or interrupted
cache may be retried (back to Pending with the same id), and progress counts bytes. It must not do I/O and must not know
why something failed.
"""

from __future__ import annotations

import datetime as dt

import msgspec

from imagecache.api import times
from imagecache.api.types import Condition, Phase, Status, StatusImage

FAILED_KEPT = dt.timedelta(hours=24)
"""How long a failed cache is kept, whatever its retention (eci-api §5.4)."""

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.PENDING: frozenset({Phase.PENDING, Phase.CREATING, Phase.READY, Phase.FAILED}),
    Phase.CREATING: frozenset({Phase.CREATING, Phase.PENDING, Phase.READY, Phase.FAILED}),
    Phase.READY: frozenset({Phase.UPDATING}),
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
    return _conditions(status, generation, now, ready=("False", "Building", ""), building=("True", "Started", ""))


def retry(status: Status, generation: int, now: dt.datetime, *, restart: bool) -> Status:
    """Pending again with the same id and events; ``restart`` when the spec has changed: progress starts at 0."""
    _check(status, Phase.PENDING)
    fresh = begin(status.image_cache_id, generation, now, progress="0%" if restart else status.progress)
    conditions = status.conditions
    for condition in fresh.conditions:
        conditions = set_condition(conditions, condition)
    return msgspec.structs.replace(fresh, events=status.events, conditions=conditions)


def started(status: Status, generation: int, now: dt.datetime, *, by_agent: bool = False) -> Status:
    """The build starts or continues: the phase stays and no reason is left. ``by_agent``: that of a plain host."""
    status = msgspec.structs.replace(status, reason="", last_updated_time=times.render(now))
    outcome = ("True", "Updating", "") if status.phase is Phase.UPDATING else ("False", "Building", "")
    reason = "StartedByAgent" if by_agent else "Started"
    return _conditions(status, generation, now, ready=outcome, building=("True", reason, ""))


def waiting(status: Status, generation: int, now: dt.datetime, *, reason: str, message: str) -> Status:
    """The build waits for something and starts without anyone's help: Pending, or still Updating."""
    updating = status.phase is Phase.UPDATING
    status = msgspec.structs.replace(
        status,
        phase=Phase.UPDATING if updating else Phase.PENDING,
        reason=f"{reason}: {message}",
        last_updated_time=times.render(now),
    )
    outcome = ("True", "Updating", "") if updating else ("False", reason, message)
    return _conditions(status, generation, now, ready=outcome, building=("False", reason, message))


def advance(status: Status, done: int, total: int, now: dt.datetime) -> Status:
    """Creating (or still Updating), at ``done`` of ``total`` bytes. Progress never decreases."""
    phase = Phase.UPDATING if status.phase is Phase.UPDATING else Phase.CREATING
    _check(status, phase)
    # at most 99: only ``ready`` says 100, when the bundle is committed
    progress = max(percent(status.progress), min(done * 100 // total if total else 0, 99))
    return msgspec.structs.replace(status, phase=phase, progress=f"{progress}%", last_updated_time=times.render(now))


def ready(
    status: Status,
    generation: int,
    now: dt.datetime,
    *,
    images: tuple[StatusImage, ...],
    size: int,
    retention_days: int | None,
) -> Status:
    """Ready, 100 %. ``retention_days`` count from the start of the build; None: never expires."""
    _check(status, Phase.READY)
    status = msgspec.structs.replace(
        status,
        phase=Phase.READY,
        progress="100%",
        reason="",
        images=images,
        size=size,
        expire_date_time=_expiry(status, retention_days),
        last_updated_time=times.render(now),
    )
    return _conditions(status, generation, now, ready=("True", "Built", ""), building=("False", "Built", ""))


def kept(status: Status, generation: int, now: dt.datetime, *, retention_days: int | None) -> Status:
    """Still Ready after a change of the spec that left the images alone: only the expiry changes."""
    status = msgspec.structs.replace(status, reason="", expire_date_time=_expiry(status, retention_days))
    return _conditions(status, generation, now, ready=("True", "Built", ""), building=("False", "Built", ""))


def _expiry(status: Status, retention_days: int | None) -> str:
    if retention_days is None:
        return ""
    # from the start of the first build: an update in place does not prolong it
    return times.render(times.parse(status.start_time) + dt.timedelta(days=retention_days))


def failed(status: Status, generation: int, now: dt.datetime, *, reason: str, message: str) -> Status:
    """Failed; or UpdateFailed, while the old bundle serves. ``reason`` is CamelCase, ``message`` for people."""
    updating = status.phase is Phase.UPDATING
    phase = Phase.UPDATE_FAILED if updating else Phase.FAILED
    _check(status, phase)
    status = msgspec.structs.replace(
        status,
        phase=phase,
        reason=f"{reason}: {message}",
        # a failed update keeps the expiry of the bundle that still serves
        expire_date_time=status.expire_date_time if updating else times.render(now + FAILED_KEPT),
        last_updated_time=times.render(now),
    )
    outcome = ("True", "UpdateFailed", message) if updating else ("False", reason, message)
    return _conditions(status, generation, now, ready=outcome, building=("False", reason, message))


def interrupted(status: Status, generation: int, now: dt.datetime) -> Status:
    """Stopped by the user: the phase stays, nothing is being built, the same command continues."""
    status = msgspec.structs.replace(status, last_updated_time=times.render(now))
    message = "stopped; downloaded data is kept, the same command continues from there"
    updating = status.phase is Phase.UPDATING
    return _conditions(
        status,
        generation,
        now,
        ready=("True", "Updating", "") if updating else ("False", "Interrupted", message),
        building=("False", "Interrupted", message),
    )


def update(status: Status, generation: int, now: dt.datetime) -> Status:
    """Updating: a new bundle is built while the old one serves (eci-api §5.4, §6)."""
    _check(status, Phase.UPDATING)
    status = msgspec.structs.replace(
        status, phase=Phase.UPDATING, progress="0%", reason="", last_updated_time=times.render(now)
    )
    return _conditions(status, generation, now, ready=("True", "Updating", ""), building=("True", "Started", ""))


def degraded(status: Status, generation: int, now: dt.datetime, *, reason: str = "", message: str = "") -> Status:
    """The condition Degraded: usable, but not as it should be. Without a reason it is False."""
    condition = Condition(
        type="Degraded",
        status="True" if reason else "False",
        reason=reason or "AsExpected",
        message=message,
        last_transition_time=times.render(now),
        observed_generation=generation,
    )
    return msgspec.structs.replace(status, conditions=set_condition(status.conditions, condition))


def observed(status: Status, kind: str = "Building") -> int:
    """The generation that a condition is about; 0 when there is no such condition."""
    return next((entry.observed_generation for entry in status.conditions if entry.type == kind), 0)


def outcome(status: Status) -> tuple[str, str]:
    """Reason and message of the build: why it failed, what it waits for, or ``Started``, ``Built``, ``Interrupted``."""
    return next(((entry.reason, entry.message) for entry in status.conditions if entry.type == "Building"), ("", ""))


def failure(status: Status) -> str:
    """CamelCase reason of a failed build or update; empty when none has failed."""
    return outcome(status)[0] if status.phase in {Phase.FAILED, Phase.UPDATE_FAILED} else ""


def left_by_command(status: Status) -> bool:
    """Whether a build that a person's command began is not finished; the same command continues it."""
    unfinished = status.phase in {Phase.PENDING, Phase.CREATING, Phase.UPDATING}
    return unfinished and outcome(status)[0] in {"Started", "Interrupted"}


def percent(progress: str) -> int:
    """``42%`` as 42."""
    return int(progress.removesuffix("%"))


def expired(status: Status, now: dt.datetime) -> bool:
    return bool(status.expire_date_time) and times.parse(status.expire_date_time) <= now


def set_condition(conditions: tuple[Condition, ...], new: Condition) -> tuple[Condition, ...]:
    """Replace the condition of that type; its transition time moves only when its status does (metav1.Condition)."""
    old = next((condition for condition in conditions if condition.type == new.type), None)
    if old is None:
        return (*conditions, new)
    if old.status == new.status:
        new = msgspec.structs.replace(new, last_transition_time=old.last_transition_time)
    return tuple(new if condition is old else condition for condition in conditions)


def _check(status: Status, target: Phase) -> None:
    if target not in TRANSITIONS[status.phase]:
        raise ValueError(f"no transition from {status.phase.value} to {target.value}")


_Outcome = tuple[str, str, str]
"""Status, reason and message of a condition."""


def _conditions(status: Status, generation: int, now: dt.datetime, *, ready: _Outcome, building: _Outcome) -> Status:
    conditions = status.conditions
    for kind, (value, reason, message) in (("Ready", ready), ("Building", building)):
        condition = Condition(
            type=kind,
            status=value,
            reason=reason,
            message=message,
            last_transition_time=times.render(now),
            observed_generation=generation,
        )
        conditions = set_condition(conditions, condition)
    return msgspec.structs.replace(status, conditions=conditions)
