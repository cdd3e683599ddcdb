"""Schedules against a walk from minute to minute, which knows nothing but what a minute has to fit."""

from __future__ import annotations

import datetime as dt

from hypothesis import given, settings
from hypothesis import strategies as st

from imagecache.api import schedule

MINUTE = dt.timedelta(minutes=1)
START = dt.datetime(2023, 12, 1, tzinfo=dt.UTC)
MOMENTS = st.integers(0, 10_000_000).map(lambda seconds: START + dt.timedelta(seconds=seconds))


def numbers(least: int, most: int) -> st.SearchStrategy[frozenset[int]]:
    return st.frozensets(st.integers(least, most), min_size=1, max_size=4)


FIELDS = st.tuples(numbers(0, 59), numbers(0, 23), st.none() | numbers(1, 28), st.none(), st.none() | numbers(0, 6))


def text(fields: tuple[frozenset[int] | None, ...]) -> str:
    return " ".join("*" if field is None else ",".join(map(str, sorted(field))) for field in fields)


def fits(moment: dt.datetime, fields: tuple[frozenset[int] | None, ...]) -> bool:
    minutes, hours, days, _months, weekdays = fields
    on_day, on_weekday = days is None or moment.day in days, weekdays is None or moment.isoweekday() % 7 in weekdays
    day = (on_day or on_weekday) if days is not None and weekdays is not None else (on_day and on_weekday)
    return day and (hours is None or moment.hour in hours) and (minutes is None or moment.minute in minutes)


@settings(deadline=None, max_examples=60)
@given(FIELDS, MOMENTS)
def test_no_minute_that_fits_is_between_the_two(fields: tuple[frozenset[int] | None, ...], now: dt.datetime) -> None:
    found = schedule.parse(text(fields))
    last, following = found.last(now), found.next(now)

    assert last <= now < following
    assert fits(last, fields)
    assert fits(following, fields)
    walk = last + MINUTE
    while walk < following:
        assert not fits(walk, fields)
        walk += MINUTE


@given(FIELDS, MOMENTS)
def test_the_last_of_the_next_is_itself(fields: tuple[frozenset[int] | None, ...], now: dt.datetime) -> None:
    """So a time that is due is found again by whoever looks later, and by nobody before."""
    found = schedule.parse(text(fields))

    assert found.last(found.next(now)) == found.next(now)
    assert found.next(found.last(now)) == found.next(now)
    assert found.last(found.next(now) - dt.timedelta(microseconds=1)) == found.last(now)
