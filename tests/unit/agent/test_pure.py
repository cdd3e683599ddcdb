"""Small decisions: when to try again, the taint, what an object asks for, what is told."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import msgspec
import pytest

from imagecache.agent import report, taint
from imagecache.agent.budget import Disk, Refused
from imagecache.agent.cache_object import cache_of
from imagecache.agent.dependencies import Inventory
from imagecache.agent.failures import Failures, Removals, is_temporary
from imagecache.agent.plan import JobKind
from imagecache.agent.report import Facts
from imagecache.api import selector
from imagecache.api.assignment import Cache
from imagecache.api.ids import derived_cache_id
from imagecache.api.nodes import CacheState, NodeStatus, parse_status
from imagecache.api.yamltext import JSON
from imagecache.containerd.api import Attached
from imagecache.digest import Digest
from imagecache.errors import (
    BlobNotFound,
    ContainerdMisconfigured,
    ContainerdUnavailable,
    DigestMismatch,
    ImageCacheError,
    MalformedLayer,
    NoSpace,
    NotFound,
    StoreRefused,
    StoreUnreachable,
)
from testkit.attachable import MemoryDocuments, bundle

ID = "imc-" + "a" * 20
NOW = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)


# failures


@pytest.mark.parametrize(
    ("error", "temporary"),
    [
        (StoreUnreachable("x"), True),
        (ContainerdUnavailable("x"), True),
        (NotFound("x"), True),
        (BlobNotFound("x"), True),
        (DigestMismatch("x"), False),
        (MalformedLayer("x"), False),
        (NoSpace("x"), False),
        (StoreRefused("x"), False),
        (ContainerdMisconfigured("x"), False),
    ],
    ids=lambda value: value.reason if isinstance(value, ImageCacheError) else "",
)
def test_what_time_heals(error: ImageCacheError, temporary: bool) -> None:
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
    assert pauses(StoreRefused("x"), 7) == [2, 4, 8, 16, 32, 60, 60]


def test_progress_and_another_reason_begin_anew() -> None:
    failures = Failures()
    assert failures.note(ID, StoreUnreachable("x"), 0, done=10).count == 1
    assert failures.note(ID, StoreUnreachable("x"), 0, done=10).count == 2
    assert failures.note(ID, StoreUnreachable("x"), 0, done=11).count == 1
    assert failures.note(ID, NotFound("x"), 0, done=11).count == 1


def test_who_waits_and_who_is_forgotten() -> None:
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


# taint


@pytest.mark.parametrize(
    ("taints", "left"),
    [
        (None, None),
        ([], None),
        ([{"key": "other", "effect": "NoSchedule"}], None),
        ([{"key": "imagecache.dev/not-ready", "effect": "NoSchedule"}], []),
        ([{"key": "other"}, {"key": "imagecache.dev/not-ready"}], [{"key": "other"}]),
        ("nonsense", None),
    ],
)
def test_taints_without_ours(taints: JSON, left: JSON) -> None:
    assert taint.without(taints) == left


@pytest.mark.parametrize(
    ("usable", "waited", "timeout", "due"),
    [
        ([], 0, 300, True),
        ([True, True], 0, 300, True),
        ([True, False], 299, 300, False),
        ([True, False], 300, 300, True),
        ([False], 1e9, 0, False),
    ],
)
def test_when_the_taint_is_due(usable: list[bool], waited: float, timeout: float, due: bool) -> None:
    assert taint.is_due(usable, waited, timeout) is due


# the object


def test_an_object_as_the_api_has_it() -> None:
    digest = str(Digest.sha256(b"x"))
    item: dict[str, JSON] = {
        "metadata": {
            "name": "a",
            "creationTimestamp": "1970-01-01T00:01:40Z",
            "annotations": {"imagecache.dev/node-selector": "pool=gpu", "imagecache.dev/priority": " -7 "},
        },
        "status": {
            "phase": "Updating",
            "imageCacheId": ID,
            "images": [{"image": "nginx", "digest": digest}, {"image": "bad", "digest": "md5:1"}],
        },
    }
    assert cache_of(item) == Cache(
        name="a",
        id=ID,
        ready=True,
        selector=selector.parse("pool=gpu", ""),
        priority=-7,
        created=100.0,
        digests={"nginx": Digest(digest)},
    )


@pytest.mark.parametrize(
    ("phase", "found"),
    [
        ("Pending", ""),
        ("Creating", ID),
        ("Ready", ""),
        ("Updating", derived_cache_id("uid-1", 3)),
        ("UpdateFailed", ""),
        ("Failed", ""),
    ],
)
def test_the_bundle_that_is_being_built(phase: str, found: str) -> None:
    item: dict[str, JSON] = {
        "metadata": {"name": "a", "uid": "uid-1", "generation": 3},
        "status": {"phase": phase, "imageCacheId": ID},
    }
    assert cache_of(item).building == found


@pytest.mark.parametrize("phase", ["Ready", "Updating", "UpdateFailed"])
def test_phases_that_serve(phase: str) -> None:
    assert cache_of({"metadata": {"name": "a"}, "status": {"phase": phase, "imageCacheId": ID}}).ready


@pytest.mark.parametrize(
    "status",
    [
        None,
        {},
        {"phase": "Ready"},
        {"phase": "Ready", "imageCacheId": "../../etc"},
        {"phase": "Creating", "imageCacheId": ID},
        {"phase": "Failed", "imageCacheId": ID},
        {"phase": 7, "imageCacheId": [], "images": "nonsense"},
    ],
)
def test_statuses_of_which_nothing_can_be_fetched(status: JSON) -> None:
    found = cache_of({"metadata": {"name": "a", "annotations": {"imagecache.dev/priority": "high"}}, "status": status})
    assert (found.ready, found.priority, found.created, found.digests) == (False, 0, 0.0, {})


def test_a_selector_that_cannot_be_parsed() -> None:
    keys: JSON = {"imagecache.dev/node-selector": "pool=("}
    assert cache_of({"metadata": {"name": "a", "annotations": keys}}).selector is None
    assert cache_of({"metadata": {"name": "a"}}).selector == selector.EVERYTHING


def test_an_object_on_its_way_out() -> None:
    assert cache_of({"metadata": {"name": "a", "deletionTimestamp": "2024-05-01T12:00:00Z"}}).deleting


# report

DOCUMENT = bundle(MemoryDocuments().image("app:1", ["base", "top"]))
INVENTORY = Inventory(documents={DOCUMENT.id: DOCUMENT})
WHOLE = replace(INVENTORY, whole=frozenset({DOCUMENT.id}))
FACTS = Facts("proxy", assigned={DOCUMENT.id: Cache("a", DOCUMENT.id, ready=True)}, inventory=INVENTORY)


def failed(error: ImageCacheError, done: int = 0) -> Failures:
    failures = Failures()
    failures.note(DOCUMENT.id, error, 0, done)
    return failures


REFUSED = Refused(DOCUMENT.id, needed=8192, available=100)
STATES = {
    "unknown": (replace(FACTS, inventory=Inventory()), CacheState.PENDING, "", 0, 0),
    "waits": (FACTS, CacheState.PENDING, "", 8192, 0),
    "partly-here": (
        replace(FACTS, inventory=replace(INVENTORY, partial={DOCUMENT.images[0].layers[0].name: 1000})),
        CacheState.PENDING,
        "",
        8192,
        1000,
    ),
    "comes": (
        replace(FACTS, running={DOCUMENT.id: JobKind.FETCH}, progress={DOCUMENT.id: 5000}),
        CacheState.FETCHING,
        "",
        8192,
        5000,
    ),
    "is-attached-now": (
        replace(FACTS, inventory=WHOLE, running={DOCUMENT.id: JobKind.ATTACH}),
        CacheState.FETCHING,
        "",
        8192,
        8192,
    ),
    "usable": (replace(FACTS, inventory=WHOLE, attached={DOCUMENT.id: Attached(())}), CacheState.READY, "", 8192, 8192),
    "lost-a-layer": (replace(FACTS, attached={DOCUMENT.id: Attached(())}), CacheState.PENDING, "", 8192, 0),
    "failed-for-now": (
        replace(FACTS, failures=failed(StoreUnreachable("x")).all()),
        CacheState.PENDING,
        "StoreUnreachable",
        8192,
        0,
    ),
    "failed": (
        replace(FACTS, failures=failed(MalformedLayer("x")).all()),
        CacheState.FAILED,
        "MalformedLayer",
        8192,
        0,
    ),
    "failed-and-is-tried-again": (
        replace(FACTS, failures=failed(MalformedLayer("x"), 10).all(), running={DOCUMENT.id: JobKind.FETCH}),
        CacheState.FAILED,
        "MalformedLayer",
        8192,
        0,
    ),
    "failed-and-comes-further": (
        replace(
            FACTS,
            failures=failed(StoreUnreachable("x"), 10).all(),
            running={DOCUMENT.id: JobKind.FETCH},
            progress={DOCUMENT.id: 11},
        ),
        CacheState.FETCHING,
        "",
        8192,
        11,
    ),
    "records-taken": (
        replace(FACTS, inventory=WHOLE, removed={DOCUMENT.id}),
        CacheState.PENDING,
        "RecordsRemoved",
        8192,
        8192,
    ),
    "no-space-now": (
        replace(FACTS, refused={DOCUMENT.id: REFUSED}, disk=Disk(100_000, 100)),
        CacheState.PENDING,
        "InsufficientSpace",
        8192,
        0,
    ),
    "no-space-ever": (
        replace(FACTS, refused={DOCUMENT.id: REFUSED}, disk=Disk(9000, 9000)),
        CacheState.FAILED,
        "InsufficientSpace",
        8192,
        0,
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_state_of_a_cache(name: str) -> None:
    facts, state, reason, total, done = STATES[name]
    (entry,) = report.status(facts, NodeStatus(), NOW).caches
    assert (entry.name, entry.id) == ("a", DOCUMENT.id)
    assert (entry.state, entry.reason, entry.bytes_total, entry.bytes_done) == (state, reason, total, done)
    assert bool(entry.message) is bool(reason)


def test_a_status_survives_the_api() -> None:
    facts = replace(STATES["no-space-now"][0], problem=ContainerdUnavailable("no socket"))
    status = report.status(facts, NodeStatus(), NOW)
    assert parse_status(msgspec.to_builtins(status)) == status
    assert {each.type: each.status for each in status.conditions} == {
        "Ready": "False",
        "StoreReachable": "True",
        "RuntimeReachable": "False",
        "InsufficientSpace": "True",
        "RecordsRemoved": "False",
    }


def test_a_condition_that_stays_keeps_its_time() -> None:
    first = report.status(FACTS, NodeStatus(), NOW)
    second = report.status(replace(FACTS, problem=StoreRefused("x")), first, NOW + dt.timedelta(seconds=9))
    times = {each.type: each.last_transition_time for each in second.conditions}
    assert times["Ready"] == "2024-05-01T12:00:09Z"
    assert times["StoreReachable"] == "2024-05-01T12:00:00Z"
    assert len(second.conditions) == len(first.conditions)
