"""Phases, progress, times and conditions, one transition after another."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from imagecache.api import events, ids, phases, times
from imagecache.api.types import Event, Phase, Status, StatusImage

NOW = dt.datetime(2019, 10, 24, 13, 40, 58, 900_000, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(minutes=4)
IMAGES = (StatusImage(image="nginx", digest="sha256:" + "0" * 64, size=5),)


def condition(status: Status, kind: str) -> tuple[str, str, str, int]:
    found = next(item for item in status.conditions if item.type == kind)
    return found.status, found.reason, found.last_transition_time, found.observed_generation


def building() -> Status:
    return phases.begin("imc-0", 1, NOW)


def ready(status: Status, days: int | None = None, now: dt.datetime = LATER) -> Status:
    return phases.ready(status, 1, now, images=IMAGES, size=7, retention_days=days)


def test_begin() -> None:
    status = building()

    assert (status.phase, status.progress, status.image_cache_id) == (Phase.PENDING, "0%", "imc-0")
    assert status.start_time == status.last_updated_time == "2019-10-24T13:40:58Z"
    assert condition(status, "Ready") == ("False", "Building", "2019-10-24T13:40:58Z", 1)
    assert condition(status, "Building") == ("True", "Started", "2019-10-24T13:40:58Z", 1)


def test_progress_never_goes_back_and_100_is_ready_only() -> None:
    status = phases.advance(building(), 0, 0, LATER)
    seen = [status.progress]
    for done in (50, 425, 300, 999, 1000):
        status = phases.advance(status, done, 1000, LATER)
        seen.append(status.progress)

    assert seen == ["0%", "5%", "42%", "42%", "99%", "99%"]
    assert status.phase is Phase.CREATING
    assert ready(status).progress == "100%"


def test_ready() -> None:
    status = ready(phases.advance(building(), 1, 2, LATER), days=7)

    assert (status.phase, status.images, status.size) == (Phase.READY, IMAGES, 7)
    assert status.expire_date_time == "2019-10-31T13:44:58Z"
    assert condition(status, "Ready") == ("True", "Built", "2019-10-24T13:44:58Z", 1)
    assert condition(status, "Building")[:2] == ("False", "Built")
    assert ready(building()).expire_date_time == ""


def test_failed_is_kept_24_hours() -> None:
    status = phases.failed(building(), 1, LATER, reason="ImageNotFound", message="nginx:9: no such tag")

    assert status.phase is Phase.FAILED
    assert status.reason == "ImageNotFound: nginx:9: no such tag"
    assert status.expire_date_time == "2019-10-25T13:44:58Z"
    assert condition(status, "Ready") == ("False", "ImageNotFound", "2019-10-24T13:40:58Z", 1)
    assert not phases.expired(status, LATER + dt.timedelta(hours=23, minutes=59))
    assert phases.expired(status, LATER + dt.timedelta(hours=24))
    assert not phases.expired(building(), LATER + dt.timedelta(days=1000))


def test_retry_keeps_id_events_and_progress_unless_the_spec_changed() -> None:
    status = phases.advance(building(), 1, 2, NOW)
    status = phases.failed(status, 1, NOW, reason="X", message="y")

    again = phases.retry(status, 1, LATER, restart=False)
    changed = phases.retry(status, 2, LATER, restart=True)

    assert (again.phase, again.progress, again.image_cache_id, again.reason) == (Phase.PENDING, "50%", "imc-0", "")
    assert again.expire_date_time == ""
    assert changed.progress == "0%"
    assert condition(changed, "Building") == ("True", "Started", "2019-10-24T13:44:58Z", 2)


def test_interrupted_keeps_the_phase() -> None:
    status = phases.interrupted(phases.advance(building(), 1, 2, NOW), 1, LATER)

    assert (status.phase, status.progress) == (Phase.CREATING, "50%")
    assert condition(status, "Building")[:2] == ("False", "Interrupted")


def test_update_serves_the_old_content_meanwhile() -> None:
    status = phases.update(ready(building(), days=7), 2, LATER)
    moving = phases.advance(status, 1, 2, LATER)
    failed = phases.failed(moving, 2, LATER, reason="X", message="y")

    assert (status.phase, status.progress, condition(status, "Ready")[:2]) == (
        Phase.UPDATING,
        "0%",
        ("False", "Updating"),
    )
    assert (moving.phase, moving.progress) == (Phase.UPDATING, "50%")
    assert (failed.phase, failed.reason) == (Phase.UPDATE_FAILED, "X: y")
    assert failed.expire_date_time == "2019-10-31T13:44:58Z"
    assert condition(failed, "Ready")[:2] == ("False", "X")
    assert ready(phases.update(failed, 3, LATER)).phase is Phase.READY


def test_no_other_way() -> None:
    with pytest.raises(ValueError, match="no transition from Ready to Pending"):
        phases.retry(ready(building()), 1, LATER, restart=False)
    with pytest.raises(ValueError, match="no transition from Failed to Creating"):
        phases.advance(phases.failed(building(), 1, NOW, reason="X", message=""), 1, 2, LATER)


def test_events_count_repeats_and_keep_the_newest_50() -> None:
    first = events.event("Pulled", "Successfully pulled image a", about="a", now=NOW)
    again = events.event("Pulled", "Successfully pulled image a", about="a", now=LATER)
    other = events.event("Pulled", "Successfully pulled image b", about="b", now=NOW)

    merged = events.append(events.append(events.append((), first), other), again)

    assert [(event.name, event.count) for event in merged] == [("b", 1), ("a", 2)]
    assert (merged[1].first_timestamp, merged[1].last_timestamp, merged[1].timestamp) == (
        "2019-10-24T13:40:58Z",
        "2019-10-24T13:44:58Z",
        "2019-10-24T13:44:58Z",
    )
    many: tuple[Event, ...] = ()
    for number in range(60):
        many = events.append(many, events.event("X", str(number), about="a", now=NOW))
    assert [event.message for event in many] == [str(number) for number in range(10, 60)]


def test_ids_have_upstreams_shape_and_come_from_the_object() -> None:
    made = [ids.derived_cache_id("a")]
    for _ in range(100):
        made.append(ids.derived_cache_id("a", made[-1]))

    assert all(ids.is_cache_id(text) and len(text) == 24 for text in made)
    assert len(set(made)) == len(made)
    assert ids.derived_cache_id("a") == made[0] != ids.derived_cache_id("b")
    assert not ids.is_cache_id("imc-UPPER")


def test_an_id_shows_whose_it_is() -> None:
    first = ids.derived_cache_id("a")
    second = ids.derived_cache_id("a", first)

    assert ids.is_of("a", first)
    assert ids.is_of("a", second)
    for text in (ids.derived_cache_id("b"), ids.derived_cache_id(""), first[:-1], f"{first}x", first.upper(), ""):
        assert not ids.is_of("a", text), text
    assert not ids.is_of("", ids.derived_cache_id(""))


def test_times_are_whole_seconds_utc() -> None:
    east = dt.timezone(dt.timedelta(hours=8))

    assert times.render(NOW.astimezone(east)) == "2019-10-24T13:40:58Z"
    assert times.parse("2019-10-24T13:40:58Z") == NOW.replace(microsecond=0)


def test_waiting_says_why_and_starting_forgets_it() -> None:
    pending = building()
    waiting = phases.waiting(pending, 1, NOW, reason="PullSecretUnavailable", message="a:b is missing")

    assert (waiting.phase, waiting.reason) == (Phase.PENDING, "PullSecretUnavailable: a:b is missing")
    assert [(entry.type, entry.status, entry.reason) for entry in waiting.conditions] == [
        ("Ready", "False", "PullSecretUnavailable"),
        ("Building", "False", "PullSecretUnavailable"),
        ("Reconciling", "True", "PullSecretUnavailable"),
        ("Stalled", "False", "PullSecretUnavailable"),
    ]
    started = phases.started(waiting, 1, NOW)
    assert (started.phase, started.reason) == (Phase.PENDING, "")
    assert [(entry.type, entry.status) for entry in started.conditions] == [
        ("Ready", "False"),
        ("Building", "True"),
        ("Reconciling", "True"),
        ("Stalled", "False"),
    ]


def test_an_update_that_waits_is_not_ready() -> None:
    updating = phases.update(ready(building()), 2, NOW)
    waiting = phases.waiting(updating, 2, NOW, reason="PullSecretUnavailable", message="a:b is missing")

    assert waiting.phase is Phase.UPDATING
    assert [entry.status for entry in waiting.conditions] == ["False", "False", "True", "False"]
    assert [entry.status for entry in phases.started(waiting, 2, NOW).conditions] == ["False", "True", "True", "False"]


@pytest.mark.parametrize(
    ("status", "ready_is", "reconciling", "stalled"),
    [
        (building(), "False", "True", "False"),
        (phases.advance(building(), 1, 2, NOW), "False", "True", "False"),
        (phases.waiting(building(), 1, NOW, reason="X", message="y"), "False", "True", "False"),
        (phases.interrupted(building(), 1, NOW), "False", "False", "True"),
        (phases.failed(building(), 1, NOW, reason="X", message="y"), "False", "False", "True"),
        (ready(building()), "True", "False", "False"),
        (phases.update(ready(building()), 1, NOW), "False", "True", "False"),
        (
            phases.failed(phases.update(ready(building()), 1, NOW), 1, NOW, reason="X", message="y"),
            "False",
            "False",
            "True",
        ),
    ],
)
def test_what_others_read_follows_from_phase_and_build(
    status: Status, ready_is: str, reconciling: str, stalled: str
) -> None:
    assert [condition(status, kind)[0] for kind in ("Ready", "Reconciling", "Stalled")] == [
        ready_is,
        reconciling,
        stalled,
    ]
    again = phases.observed(status, 7, NOW)
    assert again.observed_generation == 7
    assert {entry.observed_generation for entry in again.conditions} == {7}
    assert [entry.status for entry in again.conditions] == [entry.status for entry in status.conditions]


def test_a_retention_counts_from_the_build_or_from_its_change() -> None:
    old = NOW + dt.timedelta(days=100)
    kept = phases.retained(ready(building(), days=7), old, retention_days=7)
    assert kept.expire_date_time == "2019-10-31T13:44:58Z", "the same counts on"

    for days, expiry in ((9, "2020-02-10T13:40:58Z"), (2, "2020-02-03T13:40:58Z")):
        assert phases.retained(kept, old, retention_days=days).expire_date_time == expiry
        assert phases.retained(ready(building()), old, retention_days=days).expire_date_time == expiry
    assert phases.retained(kept, old, retention_days=None).expire_date_time == ""
    status = ready(building())
    assert phases.retained(status, old, retention_days=None) is status


def test_nothing_started_before_the_object_was_made() -> None:
    """With an earlier start an expiry that somebody has written would have passed the retention."""
    status = msgspec.structs.replace(ready(building(), days=7), start_time="1970-01-01T00:00:00Z")
    created = "2019-10-24T13:40:00Z"

    mended = phases.not_later(status, LATER, created=created)

    assert mended.start_time == created
    assert phases.not_later(mended, LATER, created=created) is mended
    assert phases.not_later(status, LATER, created="2999-01-01T00:00:00Z") is status, "then only the clocks differ"


def test_a_past_that_is_later_than_now_is_now() -> None:
    status = ready(building(), days=7)
    assert phases.not_later(status, LATER) is status

    back = phases.not_later(status, NOW - dt.timedelta(minutes=5))

    assert back.start_time == "2019-10-24T13:35:58Z"
    assert {each.last_transition_time for each in back.conditions} == {back.start_time}
    assert phases.not_later(back, NOW - dt.timedelta(minutes=5)) is back


def test_serving_is_true_while_the_store_has_a_bundle() -> None:
    for reason, value in {"Built": "True", "Updating": "True", "UpdateFailed": "True", "BundleLost": "False"}.items():
        assert condition(phases.serving(building(), 1, NOW, reason=reason), "Serving")[:2] == (value, reason)


def test_degraded_is_true_with_a_reason() -> None:
    status = phases.degraded(building(), 1, NOW)
    assert condition(status, "Degraded")[:2] == ("False", "AsExpected")

    status = phases.degraded(status, 1, NOW, reason="NodesFailed", message="1 of 2 nodes")
    assert status.conditions[-1].status == "True"
