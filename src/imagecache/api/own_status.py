"""Whose a status is: what another hand has put there is no state of ours, and is written anew.

A backup that is restored gives a new object the status of an old one, and people patch. Nothing may be built, deleted
or served for an id that is not of the object itself. It must not repair anything: ``controller.decide`` does, from what
the store has.
"""

from __future__ import annotations

import functools
import re

from imagecache.api import ids, times
from imagecache.api.phases import condition
from imagecache.api.types import Attempt, ImageCache, Status
from imagecache.digest import Digest
from imagecache.errors import InvalidDigest

_PROGRESS = re.compile(r"(100|[0-9]{1,2})%")
_LARGEST = 2**53
"""Every number of ours is smaller: what JSON holds exactly."""
_YEARS = range(1970, 3000)
"""Others are not ours: days added to later ones could be more than a date can be."""


def own(status: Status | None, uid: str) -> Status | None:
    """The status, if it can be one that we have written for the object of this uid; else None."""
    if status is None or not _PROGRESS.fullmatch(status.progress) or condition(status, "Building") is None:
        return None
    attempt = status.attempt or Attempt(image_cache_id=status.image_cache_id)
    named = (status.image_cache_id, attempt.image_cache_id)
    moments = [status.start_time, *(each.last_transition_time for each in status.conditions)]
    moments += filter(None, (status.expire_date_time, attempt.next_time, status.last_matched_time))
    moments += filter(None, (image.last_checked_time for image in status.images))
    counts = (status.retention_days, status.matches, attempt.failures, attempt.faults)
    ours = all(ids.is_of(uid, name) for name in named) and all(map(_is_time, moments))
    ours = ours and (not status.bundle_digest or _is_digest(status.bundle_digest))
    ours = ours and 0 <= min(counts) <= max(counts) < _LARGEST
    return status if ours and len({each.type for each in status.conditions}) == len(status.conditions) else None


def with_own_status(cache: ImageCache) -> ImageCache:
    """The object without a status that is not its own."""
    if cache.status is None or own(cache.status, cache.metadata.uid) is not None:
        return cache
    return cache.with_status(None)


def _is_digest(text: str) -> bool:
    try:
        Digest(text)
    except InvalidDigest:
        return False
    return True


@functools.lru_cache(maxsize=4096)
def _is_time(text: str) -> bool:
    """In the one form that we write: moments are compared as texts."""
    try:
        moment = times.parse(text)
    except ValueError:
        return False
    return moment.year in _YEARS and times.render(moment) == text
