"""A status that somebody else has written, restored or patched: it is what the store and the object say again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from imagecache.api.ids import derived_cache_id
from imagecache.api.own_status import own
from imagecache.api.parse import stored
from imagecache.api.types import Phase, Status, StatusImage
from imagecache.controller.decision import DeleteBundle, Running, StopBuild
from tests.unit.controller.situations import (
    BUILD_ONE,
    BUILD_TWO,
    DAY,
    EDITED,
    HAS_ONE,
    NOT_FOUND,
    ONE,
    TOO_LARGE,
    TWO,
    UID,
    A,
    Case,
    bundle,
    cache,
    condition,
    creating,
    failed,
    look,
    pending,
    ready,
    request,
    settled,
    tried,
    update_failed,
    updating,
)

A_DAY = DAY.total_seconds()


def set_back(status: Status, **fields: Any) -> Status:
    return msgspec.structs.replace(status, **fields)


def saying(status: Status, kind: str, value: str) -> Status:
    """With another value of one condition."""
    lie = (
        msgspec.structs.replace(each, status=value if each.type == kind else each.status) for each in status.conditions
    )
    return set_back(status, conditions=tuple(lie))


UNREADABLE = look(cache(annotations={"k8s.aliyun.com/imc-size": "abc"})).status or pending()


def drifting(image: StatusImage) -> StatusImage:
    return msgspec.structs.replace(image, drifted=True)


CASES: dict[str, Case] = {
    "a-phase-that-is-set-back-is-mended": Case(
        cache(status=set_back(settled(ready()), phase=Phase.CREATING, progress="5%")),
        HAS_ONE,
        phase=Phase.READY,
        events=("Ready",),
        check=lambda s: s.progress == "100%",
    ),
    "also-one-that-says-it-has-failed": Case(
        cache(status=set_back(settled(ready()), phase=Phase.FAILED)),
        HAS_ONE,
        phase=Phase.READY,
        events=("Retrying", "Ready"),
    ),
    "or-that-it-has-failed-and-was-never-built": Case(
        cache(status=set_back(settled(ready()), phase=Phase.FAILED)),
        actions=(BUILD_ONE,),
        phase=Phase.PENDING,
        events=("Retrying",),
    ),
    "what-ready-says-is-what-the-store-has": Case(
        cache(status=set_back(settled(ready()), images=(), size=7, progress="5%", reason="x")),
        HAS_ONE,
        phase=Phase.READY,
        check=lambda s: (len(s.images), s.size, s.progress, s.reason) == (1, 4000, "100%", ""),
    ),
    "a-condition-is-mended": Case(
        cache(status=saying(settled(failed(TOO_LARGE), bundles={}), "Ready", "True")),
        phase=Phase.FAILED,
        again=A_DAY,
        check=lambda s: condition(s, "Ready") == ("False", "ImageTooLarge"),
    ),
    "the-reason-is-that-of-the-build": Case(
        cache(status=set_back(settled(failed(TOO_LARGE), bundles={}), reason="All is well")),
        phase=Phase.FAILED,
        again=A_DAY,
        check=lambda s: s.reason.startswith("ImageTooLarge: "),
    ),
    "also-of-ready": Case(
        cache(status=saying(settled(ready()), "Stalled", "True")),
        HAS_ONE,
        phase=Phase.READY,
        check=lambda s: condition(s, "Stalled") == ("False", "Built"),
    ),
    "a-failure-without-an-end-gets-one": Case(
        cache(status=set_back(failed(TOO_LARGE), expire_date_time="")),
        phase=Phase.FAILED,
        again=A_DAY,
        check=lambda s: s.expire_date_time == "2024-05-02T12:00:00Z",
    ),
    "nor-is-one-kept-for-less-than-a-day": Case(
        cache(status=set_back(failed(TOO_LARGE), expire_date_time="2024-05-01T11:00:00Z")),
        phase=Phase.FAILED,
        again=A_DAY,
        check=lambda s: s.expire_date_time == "2024-05-02T12:00:00Z",
    ),
    "nor-for-more-than-a-day": Case(
        cache(status=set_back(failed(TOO_LARGE), expire_date_time="2999-01-01T00:00:00Z")),
        phase=Phase.FAILED,
        again=A_DAY,
        check=lambda s: s.expire_date_time == "2024-05-02T12:00:00Z",
    ),
    "an-expiry-later-than-the-retention-is-mended": Case(
        cache(days=2, status=set_back(ready(retention_days=2), expire_date_time="2999-01-01T00:00:00Z")),
        HAS_ONE,
        phase=Phase.READY,
        events=("WillExpire",),
        again=2 * A_DAY,
        check=lambda s: s.expire_date_time == "2024-05-03T12:00:00Z",
    ),
    "another-id-while-it-is-updated-deletes-nothing-that-serves": Case(
        EDITED.with_status(set_back(updating(), image_cache_id=TWO)),
        HAS_ONE,
        actions=(BUILD_TWO,),
        phase=Phase.UPDATING,
        check=lambda s: (s.image_cache_id, condition(s, "Serving")) == (ONE, ("True", "Updating")),
    ),
    "nor-does-what-failed-serve-another-one": Case(
        EDITED.with_status(set_back(update_failed(NOT_FOUND), image_cache_id=TWO)),
        HAS_ONE,
        phase=Phase.UPDATE_FAILED,
        watches=("configuration",),
        check=lambda s: (s.image_cache_id, condition(s, "Serving")) == (ONE, ("True", "UpdateFailed")),
    ),
    "what-is-not-built-yet-does-not-expire": Case(
        cache(status=set_back(creating(), expire_date_time="2020-01-01T00:00:00Z")),
        actions=(BUILD_ONE,),
        phase=Phase.CREATING,
        check=lambda s: not s.expire_date_time,
    ),
    "an-expiry-before-the-retention-has-passed-deletes-nothing": Case(
        cache(days=2, status=set_back(ready(retention_days=2), expire_date_time="2020-01-01T00:00:00Z")),
        HAS_ONE,
        phase=Phase.READY,
        events=("WillExpire",),
        again=2 * A_DAY,
    ),
    "nor-while-the-object-cannot-be-read": Case(
        cache(
            annotations={"k8s.aliyun.com/imc-size": "abc"},
            generation=2,
            status=set_back(ready(retention_days=2), expire_date_time="2020-01-01T00:00:00Z"),
        ),
        HAS_ONE,
        actions=(StopBuild(),),
        phase=Phase.UPDATE_FAILED,
        events=("WillExpire", "InvalidManifest"),
        again=2 * A_DAY,
        check=lambda s: s.expire_date_time == "2024-05-03T12:00:00Z",
    ),
    "nor-of-what-failed-because-of-that": Case(
        cache(annotations={"k8s.aliyun.com/imc-size": "abc"}, status=set_back(UNREADABLE, expire_date_time="")),
        phase=Phase.FAILED,
        again=A_DAY,
        check=lambda s: s.expire_date_time == "2024-05-02T12:00:00Z",
    ),
    "a-start-after-now-is-now-and-written-once": Case(
        cache(days=3, status=set_back(ready(retention_days=2), start_time="2100-01-01T00:00:00Z")),
        HAS_ONE,
        phase=Phase.READY,
        events=("WillExpire",),
        again=3 * A_DAY,
        check=lambda s: s.start_time == "2024-05-01T12:00:00Z" and look(cache(days=3, status=s), **HAS_ONE).status is s,
    ),
    "nor-one-without-a-retention": Case(
        cache(status=set_back(ready(), expire_date_time="2020-01-01T00:00:00Z")),
        HAS_ONE,
        phase=Phase.READY,
        check=lambda s: not s.expire_date_time,
    ),
    "a-generation-that-was-not-seen-is-not-claimed": Case(
        cache(generation=3, status=set_back(settled(ready()), observed_generation=9)),
        HAS_ONE,
        phase=Phase.READY,
        check=lambda s: s.observed_generation == 3,
    ),
    "a-bundle-that-the-store-has-and-the-status-does-not-is-taken": Case(
        cache(status=set_back(settled(ready()), image_cache_id=TWO)),
        HAS_ONE,
        phase=Phase.READY,
        events=("Ready",),
    ),
    "a-status-from-before-an-update-is-that-of-the-update-again": Case(
        EDITED.with_status(settled(ready())),
        {"bundles": {TWO: bundle(TWO, "redis:7")}},
        phase=Phase.READY,
        id=TWO,
        events=("Ready",),
    ),
    "one-that-is-lost-is-what-the-store-says": Case(
        A, {"bundles": {TWO: bundle(TWO)}}, phase=Phase.READY, id=TWO, events=("Ready",)
    ),
    "and-what-does-not-fit-goes": Case(
        A,
        {"bundles": {ONE: bundle(ONE, "redis:7"), TWO: bundle(TWO, "redis:7")}},
        actions=(DeleteBundle(ONE), DeleteBundle(TWO), BUILD_ONE),
        phase=Phase.PENDING,
    ),
    "a-use-to-come-is-none": Case(
        cache(status=set_back(settled(ready()), last_matched_time="2199-01-01T00:00:00Z", matches=3)),
        HAS_ONE,
        phase=Phase.READY,
        check=lambda s: (s.last_matched_time, s.matches) == ("2024-05-01T12:00:00Z", 3),
    ),
    "a-drift-that-nobody-has-seen-is-none": Case(
        cache(status=set_back(settled(ready()), images=tuple(map(drifting, ready().images)))),
        HAS_ONE,
        phase=Phase.READY,
        check=lambda s: s.images == ready().images,
    ),
    "a-failed-update-keeps-its-number-of-tries": Case(
        EDITED.with_status(update_failed(TOO_LARGE, faults=2)),
        HAS_ONE,
        phase=Phase.UPDATE_FAILED,
        check=lambda s: s.attempt == tried(EDITED, TWO, faults=2),
    ),
    "a-build-that-nobody-asked-for-is-stopped": Case(
        cache(status=settled(ready())),
        HAS_ONE | {"build": Running(request(TWO, EDITED))},
        actions=(StopBuild(),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_set_back(name: str) -> None:
    CASES[name].hold()


FOREIGN = derived_cache_id("22222222-2222-4222-8222-222222222222")


@pytest.mark.parametrize(
    "fields",
    [
        {"image_cache_id": FOREIGN},
        {"image_cache_id": ""},
        {"attempt": tried(bundle_id=FOREIGN)},
        {"attempt": tried(failures=-1)},
        {"attempt": tried(next_time="soon")},
        {"start_time": "x"},
        {"start_time": ""},
        {"start_time": "9999-12-31T00:00:00Z"},
        {"expire_date_time": "yesterday"},
        {"retention_days": -1},
        {"matches": -1},
        {"last_matched_time": "yesterday"},
        {"images": (StatusImage(image="nginx:1.25", digest="sha256:a", last_checked_time="soon"),)},
        {"progress": "all"},
        {"progress": "999%"},
        {"progress": "\u0663%"},
        {"matches": 2**63 - 1},
        {"conditions": (*ready().conditions, ready().conditions[0])},
        {"conditions": ()},
        {"conditions": (msgspec.structs.replace(ready().conditions[1], last_transition_time="now"),)},
    ],
)
def test_what_cannot_be_ours_is_no_status(fields: dict[str, Any]) -> None:
    status = settled(ready())

    assert own(status, UID) is status
    assert own(set_back(status, **fields), UID) is None


@pytest.mark.parametrize("status", [ready(), creating(), updating(), failed(NOT_FOUND)])
def test_a_status_restored_to_another_object_is_not_acted_on(status: Status) -> None:
    """A backup has given it to an object with another uid; the bundle that it names is another cache's."""
    item = msgspec.to_builtins(cache(status=status))
    item["metadata"]["uid"] = "22222222-2222-4222-8222-222222222222"
    restored = stored(item).cache
    found = look(restored)

    assert restored.status is None
    assert found.status is not None
    assert found.status.image_cache_id == FOREIGN
    assert [action for action in found.actions if isinstance(action, DeleteBundle)] == []
    gone = msgspec.structs.replace(
        restored, metadata=msgspec.structs.replace(restored.metadata, deletion_timestamp="2024-05-01T12:00:00Z")
    )
    assert DeleteBundle(ONE) not in look(gone).actions
