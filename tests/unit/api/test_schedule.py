"""Schedules in the five fields of cron: what they mean, and what is no schedule."""

from __future__ import annotations

import datetime as dt

import pytest

from imagecache.api import schedule
from imagecache.errors import InvalidInput


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "now", "last", "following"),
    [
        ("0 3 * * *", "2024-05-01T12:00", "2024-05-01T03:00", "2024-05-02T03:00"),
        ("0 3 * * *", "2024-05-01T03:00", "2024-05-01T03:00", "2024-05-02T03:00"),
        ("0 3 * * *", "2024-05-01T02:59:59", "2024-04-30T03:00", "2024-05-01T03:00"),
        ("*/15 * * * *", "2024-05-01T12:14:59", "2024-05-01T12:00", "2024-05-01T12:15"),
        ("0 0 */01 * 1", "2024-05-01T12:00", "2024-04-29T00:00", "2024-05-06T00:00"),
        ("1,,15, * * * *", "2024-05-01T12:10", "2024-05-01T12:01", "2024-05-01T12:15"),
        ("5/20 * * * *", "2024-05-01T12:00", "2024-05-01T11:45", "2024-05-01T12:05"),
        ("0,30 8-10 * * *", "2024-05-01T12:00", "2024-05-01T10:30", "2024-05-02T08:00"),
        ("0 0 1 * *", "2024-05-01T12:00", "2024-05-01T00:00", "2024-06-01T00:00"),
        ("0 0 31 * *", "2024-05-01T12:00", "2024-03-31T00:00", "2024-05-31T00:00"),
        ("0 0 29 feb *", "2024-05-01T12:00", "2024-02-29T00:00", "2028-02-29T00:00"),
        ("0 0 29 2 *", "2097-01-01T00:00", "2096-02-29T00:00", "2104-02-29T00:00"),
        ("0 0 * * 0", "2024-05-01T12:00", "2024-04-28T00:00", "2024-05-05T00:00"),
        ("0 0 * * 7", "2024-05-01T12:00", "2024-04-28T00:00", "2024-05-05T00:00"),
        ("0 0 ? * MON-fri", "2024-05-04T12:00", "2024-05-03T00:00", "2024-05-06T00:00"),
        ("0 0 13 * fri", "2024-05-11T12:00", "2024-05-10T00:00", "2024-05-13T00:00"),
        ("0 0 */10 * *", "2024-05-01T12:00", "2024-05-01T00:00", "2024-05-11T00:00"),
        ("@weekly", "2024-05-01T12:00", "2024-04-28T00:00", "2024-05-05T00:00"),
        ("@YEARLY", "2024-05-01T12:00", "2024-01-01T00:00", "2025-01-01T00:00"),
    ],
)
def test_before_and_after(text: str, now: str, last: str, following: str) -> None:
    found = schedule.parse(text)

    assert found.last(at(now)) == at(last)
    assert found.next(at(now)) == at(following)


def test_times_are_utc_wherever_the_clock_is() -> None:
    east = dt.timezone(dt.timedelta(hours=5))

    assert schedule.parse("0 3 * * *").last(dt.datetime(2024, 5, 1, 7, 30, tzinfo=east)) == at("2024-04-30T03:00")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it needs 5 fields and has 0"),
        ("daily", "it needs 5 fields and has 1"),
        ("@reboot", "it needs 5 fields and has 1"),
        ("TZ=Asia/Tokyo 0 3 * * *", "it needs 5 fields and has 6"),
        ("60 * * * *", "minute: '60' is not 0 to 59"),
        ("0 24 * * *", "hour: '24' is not 0 to 23"),
        ("0 0 0 * *", "day of the month: '0' is not 1 to 31"),
        ("0 0 * 13 *", "month: '13' is not 1 to 12, or jan to dec"),
        ("0 0 * * 8", "day of the week: '8' is not 0 to 6, or sun to sat"),
        ("0 0 * * fri-mon", "day of the week: 'fri-mon' is not"),
        ("*/0 * * * *", "minute: '\\*/0' is not"),
        ("*-5 * * * *", "minute: '\\*-5' is not"),
        (", * * * *", "minute: ',' is not"),
        ("-1 * * * *", "minute: '-1' is not"),
        ("1.5 * * * *", "minute: '1.5' is not"),
        ("\u0663 * * * *", "minute: '\u0663' is not"),
        ("0 0 30 2 *", "none of its months has a day 30"),
        ("0 0 31 4,6,9,11 *", "none of its months has a day 31"),
        (f"{'1' * 5000} * * * *", "minute: '1111"),
    ],
)
def test_what_is_no_schedule_is_said(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}") as raised:
        schedule.parse(text)

    assert "0 3 * * *" in raised.value.hint
    assert len(str(raised.value)) < 200
