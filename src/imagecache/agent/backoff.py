"""When to try again: after failures, and after kubelet took records away. Pure, with the time handed in.

Time heals what is only not there at the moment (no answer, not yet built): soon and often. Everything else takes a
person, or another bundle: now and then. Nothing here ever gives up.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from imagecache.backoff import Backoff
from imagecache.errors import (
    BlobNotFound,
    ContainerdUnavailable,
    ContentError,
    ImageCacheError,
    NextStep,
    NotFound,
    StoreRefused,
)

_SOON = Backoff(1.0, 30.0)
_CREDENTIALS = Backoff(2.0, 60.0)
"""A host's agent begins before its token exists, so that is no reason to wait long."""
_RARELY = Backoff(10.0, 600.0)
_HEALS = (ContainerdUnavailable, NotFound, BlobNotFound)
"""They say "fix it", but on a node they mean that somebody else is not so far yet."""
REMOVALS = 3
WITHIN = 3600.0
"""So many removals in so many seconds, and records stay away for as long."""


@dataclass(frozen=True, slots=True)
class Failure:
    reason: str
    message: str
    hint: str
    temporary: bool
    """Time heals it."""
    until: float
    """Nothing is tried before; on the monotonic clock."""
    count: int = 1
    done: int = 0
    """Bytes that were there when it failed."""


def _backoff(error: ImageCacheError) -> Backoff:
    if isinstance(error, StoreRefused):
        return _CREDENTIALS
    return _SOON if is_temporary(error) else _RARELY


def is_temporary(error: ImageCacheError) -> bool:
    if isinstance(error, ContentError):
        return False  # the bytes were fetched more than once by then
    return isinstance(error, _HEALS) or error.next_step is NextStep.RETRY


@dataclass
class Failures:
    """The last failure of each bundle."""

    _failed: dict[str, Failure] = field(default_factory=dict)

    def note(self, bundle_id: str, error: ImageCacheError, now: float, done: int = 0) -> Failure:
        before = self._failed.get(bundle_id)
        count = before.count + 1 if before and before.reason == error.reason and done <= before.done else 1
        failure = Failure(
            reason=error.reason,
            message=str(error),
            hint=error.hint,
            temporary=is_temporary(error),
            until=now + _backoff(error).pause(count),
            count=count,
            done=done,
        )
        self._failed[bundle_id] = failure
        return failure

    def get(self, bundle_id: str) -> Failure | None:
        return self._failed.get(bundle_id)

    def clear(self, bundle_id: str) -> None:
        self._failed.pop(bundle_id, None)

    def keep(self, bundle_ids: Collection[str]) -> None:
        """Forget all others."""
        self._failed = {name: failure for name, failure in self._failed.items() if name in bundle_ids}

    def all(self) -> dict[str, Failure]:
        return dict(self._failed)

    def waiting(self, now: float) -> dict[str, float]:
        """Seconds that each still waits."""
        return {name: each.until - now for name, each in self._failed.items() if each.until > now}


@dataclass
class Removals:
    """How often somebody took away the records of a bundle.

    kubelet deletes images when its disk is nearly full. Records that come back at once would be deleted again, and
    again: so after a few times they stay away for a while.
    """

    _times: dict[str, list[float]] = field(default_factory=dict)

    def note(self, bundle_id: str, now: float) -> None:
        recent = [each for each in self._times.get(bundle_id, []) if now - each < WITHIN]
        self._times[bundle_id] = [*recent, now]

    def keep(self, bundle_ids: Collection[str]) -> None:
        """Forget all others."""
        self._times = {name: each for name, each in self._times.items() if name in bundle_ids}

    def waiting(self, now: float) -> dict[str, float]:
        """Seconds that each still waits."""
        found = {}
        for name, times in self._times.items():
            left = times[-1] + WITHIN - now
            if len(times) >= REMOVALS and left > 0:
                found[name] = left
        return found
