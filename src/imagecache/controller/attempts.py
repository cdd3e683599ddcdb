"""What is remembered of builds in ``status.attempt``: how often, when next, and with what the registry was asked.

It is in the status because it must outlive the process: a controller that restarts goes on waiting, does not ask a
registry again with credentials that it has refused, and does not count anew. Pure; it must not know phases.
"""

from __future__ import annotations

import datetime as dt

from msgspec.structs import replace

from imagecache.api import phases, times
from imagecache.api.types import Attempt, Status
from imagecache.controller import failures
from imagecache.controller.decision import ObservedState
from imagecache.errors import ImageCacheError


def last(status: Status) -> Attempt:
    """The last one, whatever it was for."""
    return status.attempt or Attempt(image_cache_id=status.image_cache_id)


def fresh(attempt: Attempt) -> Attempt:
    """The same, with all that went wrong forgotten."""
    return Attempt(image_cache_id=attempt.image_cache_id, wanted=attempt.wanted)


def at(status: Status, bundle_id: str, wanted: str, observed: ObservedState) -> Attempt:
    """The attempt at what is wanted now: the last one if that was for the same, else a new one."""
    attempt = last(status)
    if attempt.wanted != wanted or observed.requested:
        return Attempt(image_cache_id=bundle_id, wanted=wanted)
    return replace(attempt, image_cache_id=bundle_id)


def with_causes(attempt: Attempt, error: ImageCacheError, secrets: str, configuration: str) -> Attempt:
    """With what the registry was asked with, while a failure stands that something else there can end."""
    if not failures.is_of_access(error.reason):
        return replace(attempt, secrets="", configuration="")
    return replace(attempt, secrets=secrets, configuration=configuration)


def put_off(attempt: Attempt, pause: float, now: dt.datetime) -> Attempt:
    return replace(attempt, next_time=times.render(now + dt.timedelta(seconds=pause)))


def seconds_left(status: Status, attempt: Attempt, observed: ObservedState, now: dt.datetime) -> float | None:
    """Until it may be tried again. None: now, also when what it failed for has changed."""
    other = (attempt.secrets, attempt.configuration) != (observed.secrets, observed.configuration)
    if not attempt.next_time or (other and failures.is_of_access(phases.outcome(status)[0])):
        return None
    left = (times.parse(attempt.next_time) - now).total_seconds()
    # a time further away is not ours: a clock was set back, or somebody else has written it
    return left if 0 < left <= failures.LONGEST else None
