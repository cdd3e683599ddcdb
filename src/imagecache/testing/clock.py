"""A clock that only a test moves."""

from __future__ import annotations

import datetime as dt

START = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)


class ManualClock:
    """Stands still until ``advance``; wall time and monotonic time move together."""

    def __init__(self, start: dt.datetime = START) -> None:
        self._start = start
        self._elapsed = 0.0

    def advance(self, seconds: float) -> None:
        self._elapsed += seconds

    def now(self) -> dt.datetime:
        return self._start + dt.timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed
