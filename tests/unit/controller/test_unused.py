"""When a cache that a pod had made for it goes by itself."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from msgspec.structs import replace

from imagecache.api import times
from imagecache.api.annotations import RETENTION_DAYS
from imagecache.api.types import ImageCache, Phase
from imagecache.controller.decision import DeleteObject, Role
from imagecache.match.keys import AUTO_CREATED

from .situations import DAY, EDITED, HAS_ONE, NOT_FOUND, NOW, cache, failed, look, ready, updating


def auto(*, days: int | None = None, matched: dt.datetime | None = None, **metadata: Any) -> ImageCache:
    """Made now, Ready, and matched then."""
    labels = {"labels": {AUTO_CREATED: "true"}, "creation_timestamp": times.render(NOW)}
    made = cache(days=days, **{**labels, **metadata})
    status = replace(ready(retention_days=days), last_matched_time=times.render(matched) if matched else "")
    return made.with_status(status)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (auto(), NOW + 7 * DAY),
        (auto(matched=NOW), NOW + 30 * DAY),
        (auto(matched=NOW - 30 * DAY), NOW + 7 * DAY),
        (auto(labels={}), None),
        (auto(labels={AUTO_CREATED: "false"}), None),
        # a person's word
        (auto(days=3), NOW + 3 * DAY),
        (auto(days=0), None),
        (auto(annotations={RETENTION_DAYS: "0"}), None),
    ],
)
def test_the_expiry(seen: ImageCache, expected: dt.datetime | None) -> None:
    decided = look(seen, **HAS_ONE)

    assert decided.status is not None
    assert decided.status.expire_date_time == (times.render(expected) if expected else "")
    assert look(seen.with_status(decided.status), **HAS_ONE).status is decided.status, "it is written once"
    if expected is not None:
        assert decided.again == (expected - NOW).total_seconds()
        late = look(seen.with_status(decided.status), expected, **HAS_ONE)
        assert late.actions == (DeleteObject(),)
    else:
        assert look(seen.with_status(decided.status), NOW + 1000 * DAY, **HAS_ONE).actions == ()


def test_a_match_puts_it_off() -> None:
    seen = auto()
    before = look(seen, **HAS_ONE).status
    assert before is not None
    used = replace(before, last_matched_time=times.render(NOW + 6 * DAY))
    decided = look(seen.with_status(used), NOW + 8 * DAY, **HAS_ONE)

    assert decided.actions == ()
    assert decided.status is not None
    assert decided.status.expire_date_time == times.render(NOW + 36 * DAY)


def test_a_failed_one_is_kept_for_a_day_like_any_other() -> None:
    seen = cache(labels={AUTO_CREATED: "true"}, creation_timestamp=times.render(NOW)).with_status(failed(NOT_FOUND))
    status = look(seen).status

    assert status is not None
    assert status.expire_date_time == times.render(NOW + DAY)
    assert look(seen.with_status(status), NOW + DAY).actions == (DeleteObject(),)


def test_one_that_is_updated_goes_too_when_nobody_uses_it() -> None:
    labels = {AUTO_CREATED: "true"}
    seen = cache(*EDITED.spec.images, generation=2, labels=labels, creation_timestamp=times.render(NOW))
    seen = seen.with_status(updating(of=seen))
    decided = look(seen, **HAS_ONE)

    assert decided.status is not None
    assert (decided.status.phase, decided.status.expire_date_time) == (Phase.UPDATING, times.render(NOW + 7 * DAY))


def test_on_a_plain_host_nobody_matches() -> None:
    decided = look(auto(), role=Role.COMMAND, **HAS_ONE)

    assert decided.status is not None
    assert decided.status.expire_date_time == ""
