"""The status of a NodeImageCache in every state of a cache."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import msgspec
import pytest

from imagecache.agent import report
from imagecache.agent.budget import Disk, Refused
from imagecache.agent.dependencies import Inventory
from imagecache.agent.failures import Failures
from imagecache.agent.plan import JobKind
from imagecache.agent.report import Facts
from imagecache.api.assignment import Cache
from imagecache.api.nodes import CacheState, NodeStatus, parse_status
from imagecache.containerd.api import Attached
from imagecache.errors import (
    ContainerdUnavailable,
    ImageCacheError,
    MalformedLayer,
    StoreRefused,
    StoreUnreachable,
)
from testkit.attachable import MemoryDocuments, bundle

ID = "imc-" + "a" * 20
NOW = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)

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
    "usable": (replace(FACTS, inventory=WHOLE, attached={DOCUMENT.id: Attached()}), CacheState.READY, "", 8192, 8192),
    "lost-a-layer": (replace(FACTS, attached={DOCUMENT.id: Attached()}), CacheState.PENDING, "", 8192, 0),
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
        "HandlersServed": "True",
        "NameTaken": "False",
    }


def test_what_other_snapshotters_have_is_counted_and_named() -> None:
    attached = {DOCUMENT.id: Attached({}, unpacked=frozenset({"devmapper", "overlayfs"}))}
    status = report.status(replace(FACTS, inventory=WHOLE, attached=attached), NodeStatus(), NOW)
    (entry,) = status.caches
    assert (entry.unpacked_into, entry.unpacked_bytes) == (("devmapper", "overlayfs"), 4 * 1024)
    assert status.used_bytes == 4 * 1024
    assert list(msgspec.to_builtins(entry)["unpackedInto"]) == ["devmapper", "overlayfs"]


def test_handlers_that_are_left_out_are_named_with_the_caches() -> None:
    attached = {DOCUMENT.id: Attached({}, left_out=("kata", "two"))}
    status = report.status(replace(FACTS, inventory=WHOLE, attached=attached), NodeStatus(), NOW)
    (condition,) = (each for each in status.conditions if each.type == "HandlersServed")
    assert (condition.status, condition.reason) == ("False", "AlsoUnpackOff")
    assert "kata, two cannot start images of a:" in condition.message


def test_a_condition_that_stays_keeps_its_time() -> None:
    first = report.status(FACTS, NodeStatus(), NOW)
    second = report.status(replace(FACTS, problem=StoreRefused("x")), first, NOW + dt.timedelta(seconds=9))
    times = {each.type: each.last_transition_time for each in second.conditions}
    assert times["Ready"] == "2024-05-01T12:00:09Z"
    assert times["StoreReachable"] == "2024-05-01T12:00:00Z"
    assert len(second.conditions) == len(first.conditions)
