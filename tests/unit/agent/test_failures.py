"""When to try again: after failures, and after records were removed."""

from __future__ import annotations

import datetime as dt

import pytest

from imagecache.agent.failures import Failures, Removals, is_temporary
from imagecache.errors import (
    BlobNotFound,
    ContainerdMisconfigured,
    ContainerdUnavailable,
    DigestMismatch,
    ImageCacheError,
    MalformedLayer,
    NoSpace,
    NotFound,
    SnapshotNotFound,
    StoreRefused,
    StoreUnreachable,
    WorkerKilled,
)

ID = "imc-" + "a" * 20
NOW = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("error", "temporary"),
    [
        (StoreUnreachable("x"), True),
        (ContainerdUnavailable("x"), True),
        (NotFound("x"), True),
        (BlobNotFound("x"), True),
        (SnapshotNotFound("x"), True),
        (DigestMismatch("x"), False),
        (MalformedLayer("x"), False),
        (NoSpace("x"), False),
        (StoreRefused("x"), False),
        (ContainerdMisconfigured("x"), False),
    ],
    ids=lambda value: value.reason if isinstance(value, ImageCacheError) else "",
)
def test_failures_that_are_temporary(error: ImageCacheError, temporary: bool) -> None:
    assert is_temporary(error) is temporary


def pauses(error: ImageCacheError, count: int) -> list[float]:
    failures, now, found = Failures(), 100.0, []
    for _ in range(count):
        until = failures.note(ID, error, now).until
        found.append(until - now)
        now = until
    return found


def test_pauses_grow_to_a_bound() -> None:
    assert pauses(StoreUnreachable("x"), 7) == [1, 2, 4, 8, 16, 30, 30]
    assert pauses(MalformedLayer("x"), 8) == [10, 20, 40, 80, 160, 320, 600, 600]
    assert pauses(MalformedLayer("x"), 100)[-1] == 600


def test_a_layer_that_killed_processes_of_the_node_waits_for_hours() -> None:
    assert pauses(WorkerKilled("x"), 5) == [7200, 14400, 28800, 43200, 43200]
    assert pauses(StoreRefused("x"), 7) == [2, 4, 8, 16, 32, 60, 60]


def test_progress_and_another_reason_reset_the_pause() -> None:
    failures = Failures()
    assert failures.note(ID, StoreUnreachable("x"), 0, done=10).count == 1
    assert failures.note(ID, StoreUnreachable("x"), 0, done=10).count == 2
    assert failures.note(ID, StoreUnreachable("x"), 0, done=11).count == 1
    assert failures.note(ID, NotFound("x"), 0, done=11).count == 1


def test_waiting_and_forgotten_failures() -> None:
    failures = Failures()
    failures.note("one", StoreUnreachable("x"), 0)
    failures.note("two", MalformedLayer("x"), 0)
    assert failures.waiting(0.5) == {"one": 0.5, "two": 9.5}
    assert failures.waiting(1) == {"two": 9}
    failures.keep({"one"})
    assert failures.all().keys() == {"one"}
    failures.clear("one")
    failures.clear("one")
    assert failures.get("one") is None


def test_three_removals_within_an_hour() -> None:
    removals = Removals()
    for now in (0, 3500, 3599):
        assert removals.waiting(now) == {}
        removals.note(ID, now)
    assert removals.waiting(3600) == {ID: 3599}
    assert removals.waiting(7199) == {}
    removals.note(ID, 7300)  # the old ones do not count any more
    assert removals.waiting(7300) == {}
    removals.keep(())
    assert removals.waiting(0) == {}
