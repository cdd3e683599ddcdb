"""When to try again: after failures, and after kubelet has removed image records. Pure, with the time passed in.

What is only absent at the moment (no answer, not built yet) is retried soon and often. Everything else needs a
person, or another bundle, and is retried rarely. Nothing is ever abandoned.
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
    SnapshotNotFound,
    StoreRefused,
    WorkerKilled,
)

_TEMPORARY = Backoff(1.0, 30.0)
_CREDENTIALS = Backoff(2.0, 60.0)
"""A host's agent starts before its token exists, so a refusal is no reason to wait long."""
_PERMANENT = Backoff(10.0, 600.0)
_KILLED = Backoff(2 * 3600.0, 12 * 3600.0)
"""A layer that ends processes of this node takes them from others, too."""
_HEALS = (ContainerdUnavailable, NotFound, BlobNotFound, SnapshotNotFound)
"""Their next step is another one; on a node the runtime or controller is not ready yet, or a collection was faster."""
REMOVALS = 3
WITHIN = 3600.0
"""After so many removals within so many seconds, records are not made again for as long."""


@dataclass(frozen=True, slots=True)
class Failure:
    reason: str
    message: str
    hint: str
    temporary: bool
    """It passes without anyone's help."""
    until: float
    """The next try; on the monotonic clock."""
    count: int = 1
    done: int = 0
    """Bytes that were on the node when it failed."""


def _backoff(error: ImageCacheError) -> Backoff:
    if isinstance(error, StoreRefused):
        return _CREDENTIALS
    if isinstance(error, WorkerKilled):
        return _KILLED
    return _TEMPORARY if is_temporary(error) else _PERMANENT


def is_temporary(error: ImageCacheError) -> bool:
    if isinstance(error, ContentError):
        return False  # the transfer has already fetched the bytes more than once
    return isinstance(error, _HEALS) or error.next_step is NextStep.RETRY


@dataclass
class Failures:
    """The last failure of each bundle."""

    _failed: dict[str, Failure] = field(default_factory=dict)

    def note(self, bundle_id: str, error: ImageCacheError, now: float, done: int = 0) -> Failure:
        """Record a failure. Another reason, or progress since the last one, starts with the first pause again."""
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
        """Seconds until the next try of each that is not due."""
        return {name: each.until - now for name, each in self._failed.items() if each.until > now}


@dataclass
class Removals:
    """How often the image records of a bundle were removed by someone else.

    kubelet's image collection deletes images when its disk is nearly full, and would delete again what we attach again
    at once. So after a few removals the records are not made again for a while.
    """

    _times: dict[str, list[float]] = field(default_factory=dict)

    def note(self, bundle_id: str, now: float) -> None:
        recent = [each for each in self._times.get(bundle_id, []) if now - each < WITHIN]
        self._times[bundle_id] = [*recent, now]

    def keep(self, bundle_ids: Collection[str]) -> None:
        """Forget all others."""
        self._times = {name: each for name, each in self._times.items() if name in bundle_ids}

    def waiting(self, now: float) -> dict[str, float]:
        """Seconds until the records of each may be made again."""
        found = {}
        for name, times in self._times.items():
            left = times[-1] + WITHIN - now
            if len(times) >= REMOVALS and left > 0:
                found[name] = left
        return found
