"""When a tag is looked up, what of it is in a status, and what is left out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from itertools import pairwise

import pytest
from msgspec.structs import replace

from imagecache.api import phases, tags, times
from imagecache.api.tags import TagCheck, is_due
from imagecache.api.types import Status, StatusImage

NOW = dt.datetime(2024, 5, 1, 12, 0, 0, tzinfo=dt.UTC)
HOUR, MINUTE = dt.timedelta(hours=1), dt.timedelta(minutes=1)
BUILT, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NGINX, REDIS = "nginx:1.25", "redis:7"


def images(*names: str) -> tuple[StatusImage, ...]:
    return tuple(
        StatusImage(image=name, platform=platform, digest=BUILT)
        for name in names
        for platform in ("linux/amd64", "linux/arm64")
    )


def ready(*names: str) -> Status:
    begun = phases.begin("imc-0", 1, NOW)
    return phases.ready(begun, 1, NOW, images=images(*(names or (NGINX,))), size=7, retention_days=None)


def check(digest: str, after: dt.timedelta, image: str = NGINX) -> Mapping[str, TagCheck]:
    return {image: TagCheck(digest, NOW + after)}


def shown(status: Status) -> set[tuple[str, str, bool, str]]:
    return {(each.image, each.last_checked_time, each.drifted, each.current_digest) for each in status.images}


def test_a_tag_that_names_the_same_is_written_once_an_hour() -> None:
    first = tags.checked(ready(), check(BUILT, HOUR))
    assert shown(first) == {(NGINX, "2024-05-01T13:00:00Z", False, "")}

    soon = HOUR + 59 * MINUTE
    assert tags.checked(first, check(BUILT, soon)) is first
    assert shown(tags.checked(first, check(BUILT, 2 * HOUR))) == {(NGINX, "2024-05-01T14:00:00Z", False, "")}


def test_one_write_is_for_all_tags_of_a_cache() -> None:
    first = tags.checked(ready(NGINX, REDIS), check(BUILT, HOUR))
    both = {**check(BUILT, HOUR + MINUTE, REDIS), **check(BUILT, 2 * HOUR, NGINX)}

    assert tags.checked(first, check(BUILT, HOUR + MINUTE, REDIS)) is first
    assert shown(tags.checked(first, both)) == {
        (NGINX, "2024-05-01T14:00:00Z", False, ""),
        (REDIS, "2024-05-01T13:01:00Z", False, ""),
    }


def test_a_move_is_written_at_once_and_so_is_a_move_back() -> None:
    first = tags.checked(ready(), check(BUILT, HOUR))
    moved = tags.checked(first, check(OTHER, HOUR + MINUTE))
    assert shown(moved) == {(NGINX, "2024-05-01T13:01:00Z", True, OTHER)}

    assert tags.checked(moved, check(OTHER, HOUR + 2 * MINUTE)) is moved
    back = tags.checked(moved, check(BUILT, HOUR + 3 * MINUTE))
    assert shown(back) == {(NGINX, "2024-05-01T13:03:00Z", False, "")}


def test_a_time_to_come_is_mended() -> None:
    later = tags.checked(ready(), check(BUILT, 100 * HOUR))

    assert shown(tags.checked(later, check(BUILT, HOUR))) == {(NGINX, "2024-05-01T13:00:00Z", False, "")}


def test_a_look_up_from_before_the_build_ended_says_nothing() -> None:
    status = ready()

    assert tags.checked(status, check(OTHER, -MINUTE)) is status
    assert tags.checked(status, check(OTHER, HOUR, REDIS)) is status
    assert tags.checked(status, {}) is status


def test_what_is_known_stays_with_the_digest_it_is_about() -> None:
    moved = tags.checked(ready(), check(OTHER, HOUR))
    rebuilt = [replace(image, digest=OTHER) for image in images(NGINX)]

    assert tags.carried(moved.images, images(NGINX)) == moved.images
    assert tags.carried(moved.images, rebuilt) == tuple(rebuilt)
    lie = [replace(image, drifted=True, current_digest="") for image in moved.images]
    assert not any(image.drifted for image in tags.carried(lie, images(NGINX)))


def test_the_condition_is_there_from_the_first_look_up_on() -> None:
    def condition(status: Status) -> tuple[str, str] | None:
        found = phases.condition(tags.drifted(status, 1, NOW), "TagDrifted")
        return (found.status, found.reason) if found else None

    assert condition(ready()) is None
    assert condition(tags.checked(ready(), check(BUILT, HOUR))) == ("False", "AsExpected")
    moved = tags.drifted(tags.checked(ready(), check(OTHER, HOUR)), 1, NOW)
    assert condition(moved) == ("True", "TagMoved")
    found = phases.condition(moved, "TagDrifted")
    assert found is not None
    assert NGINX in found.message
    assert "imagecache.dev/refresh" in found.message
    rebuilt = replace(moved, images=images(NGINX))
    assert condition(rebuilt) == ("False", "AsExpected")


@pytest.mark.parametrize("interval", [60.0, 3600.0, 86400.0])
def test_each_tag_is_due_once_in_each_interval_and_at_its_own_moment(interval: float) -> None:
    step = dt.timedelta(seconds=interval / 100)
    moments: dict[str, list[int]] = {}
    for image in (f"app:{number}" for number in range(100)):
        last = NOW
        for count in range(1, 301):
            if is_due(image, last, NOW + count * step, interval):
                moments.setdefault(image, []).append(count)
                last = NOW + count * step

    assert {len(each) for each in moments.values()} == {3}
    assert all(second - first == 100 for each in moments.values() for first, second in pairwise(each))
    assert len({each[0] for each in moments.values()}) > 40, "spread over the interval"


def test_what_is_checked_is_not_due_again_before_its_turn() -> None:
    assert not is_due(NGINX, NOW, NOW, 3600)
    assert is_due(NGINX, NOW, NOW + HOUR, 3600)
    assert is_due(NGINX, times.parse("2020-01-01T00:00:00Z"), NOW, 3600)
