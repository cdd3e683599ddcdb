"""metav1.Time: RFC 3339, UTC, whole seconds, ``Z``. It must not read a clock."""

from __future__ import annotations

import datetime as dt

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def render(moment: dt.datetime) -> str:
    """``2019-10-24T13:40:58Z``; fractions of a second are dropped."""
    return moment.astimezone(dt.UTC).strftime(_FORMAT)


def parse(text: str) -> dt.datetime:
    """The reverse of ``render``. Raises ValueError."""
    return dt.datetime.strptime(text, _FORMAT).replace(tzinfo=dt.UTC)


def read(text: str) -> dt.datetime | None:
    """``parse`` of what anybody may have written; None when it is no such time."""
    try:
        return parse(text)
    except ValueError:
        return None


def seconds(text: str) -> float:
    """Since the epoch, of what anybody may have written; 0 for what is no such time."""
    moment = read(text)
    return moment.timestamp() if moment is not None else 0.0
