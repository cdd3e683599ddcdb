"""A schedule in the five fields of cron: minute, hour, day of the month, month, day of the week; in UTC.

It means what a CronJob's means (robfig/cron v3, ``parser.go`` and ``spec.go``), and Sunday may be 7 too, as in
crontab(5). Given a time, the one before and the one after follow from the text alone, so nothing needs to be remembered
of what was due. It must not read a clock.
"""

from __future__ import annotations

import bisect
import datetime as dt
import re
from dataclasses import dataclass

from imagecache.errors import InvalidInput

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""Days of each month in a leap year."""
_WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_PART = re.compile(r"(?P<first>\*|\?|[a-z0-9]+)(?:-(?P<last>[a-z0-9]+))?(?:/(?P<step>[0-9]{1,4}))?")
_DIGITS = 4
_DAY = dt.timedelta(days=1)
_HINT = 'write it as "0 3 * * *" (each day at 03:00 UTC): minute, hour, day of the month, month, day of the week'


@dataclass(frozen=True, slots=True)
class Schedule:
    """Whole minutes; there is one at least every eight years (29 February)."""

    times: tuple[dt.time, ...]
    """Of a day, in their order."""
    days: frozenset[int]
    """Of the month."""
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    either: bool
    """Both fields of days are restricted: then a day is meant that fits one of them."""

    def last(self, now: dt.datetime) -> dt.datetime:
        """The newest time of the schedule that is not after ``now``."""
        now = now.astimezone(dt.UTC)
        day, count = now.date(), bisect.bisect_right(self.times, now.time())
        while not (self._means(day) and count):
            day, count = day - _DAY, len(self.times)
        return dt.datetime.combine(day, self.times[count - 1], dt.UTC)

    def next(self, now: dt.datetime) -> dt.datetime:
        """The first time of the schedule after ``now``."""
        now = now.astimezone(dt.UTC)
        day, first = now.date(), bisect.bisect_right(self.times, now.time())
        while not (self._means(day) and first < len(self.times)):
            day, first = day + _DAY, 0
        return dt.datetime.combine(day, self.times[first], dt.UTC)

    def _means(self, day: dt.date) -> bool:
        fits = (day.day in self.days, day.isoweekday() % 7 in self.weekdays)
        return day.month in self.months and (any(fits) if self.either else all(fits))


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()
    """Of the numbers from ``least`` on."""
    also: int | None = None
    """A number that is allowed besides."""


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 6, _WEEKDAYS, also=7),
)


def parse(text: str) -> Schedule:
    """Raises InvalidInput, whose message says which field is wrong."""
    words = _WORDS.get(text.lower(), text.lower()).split()
    if len(words) != len(_FIELDS):
        raise InvalidInput(f"it needs {len(_FIELDS)} fields and has {len(words)}", hint=_HINT)
    minutes, hours, days, months, weekdays = (_numbers(field, word) for field, word in zip(_FIELDS, words, strict=True))
    schedule = Schedule(
        times=tuple(dt.time(hour, minute) for hour in sorted(hours) for minute in sorted(minutes)),
        days=days,
        months=months,
        weekdays=frozenset(number % 7 for number in weekdays),
        either=not (_is_any(words[2]) or _is_any(words[4])),
    )
    if not schedule.either and all(min(days) > _LENGTHS[month - 1] for month in months):
        raise InvalidInput(f"none of its months has a day {min(days)}", hint=_HINT)
    return schedule


def _numbers(field: _Field, text: str) -> frozenset[int]:
    # empty ones are passed over, as in robfig/cron; a field of none is refused, which there never comes
    parts = [part for part in text.split(",") if part] or [text]
    return frozenset(number for part in parts for number in _range(field, part))


def _range(field: _Field, text: str) -> range:
    match = _PART.fullmatch(text)
    if match is None:
        raise _wrong(field, text)
    step = int(match["step"] or 1)
    if match["first"] in {"*", "?"}:
        if match["last"] or not step:
            raise _wrong(field, text)
        return range(field.least, field.most + 1, step)
    first = _number(field, match["first"])
    # with a step alone, ``10/5`` is from 10 on
    last = _number(field, match["last"]) if match["last"] else field.most if match["step"] else first
    if not step or last < first:
        raise _wrong(field, text)
    return range(first, last + 1, step)


def _number(field: _Field, text: str) -> int:
    if text in field.names:
        return field.least + field.names.index(text)
    number = int(text) if text.isdigit() and len(text) <= _DIGITS else None
    if number is None or not (field.least <= number <= field.most or number == field.also):
        raise _wrong(field, text)
    return number


def _is_any(text: str) -> bool:
    """Whether a field is not restricted, so that the other field of days decides alone."""
    matches = filter(None, map(_PART.fullmatch, text.split(",")))
    return any(match["first"] in {"*", "?"} and int(match["step"] or 1) == 1 for match in matches)


def _wrong(field: _Field, text: str) -> InvalidInput:
    named = f", or {field.names[0]} to {field.names[-1]}" if field.names else ""
    return InvalidInput(f"{field.name}: {text[:40]!r} is not {field.least} to {field.most}{named}", hint=_HINT)
