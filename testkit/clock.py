"""A clock that stands still until a test moves it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

START = dt.datetime(2024, 5, 1, 12, 0, 0, tzinfo=dt.UTC)


class FakeClock:
    """Fake of ``imagecache.clock.Clock``."""

    def __init__(self, start: dt.datetime = START) -> None:
        self._now = start
        self._monotonic = 1000.0

    def now(self) -> dt.datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float = 0.0, *, hours: float = 0.0, days: float = 0.0) -> None:
        """Let time pass."""
        passed = dt.timedelta(seconds=seconds, hours=hours, days=days)
        self._now += passed
        self._monotonic += passed.total_seconds()


class AskingClock(FakeClock):
    """Asks ``question`` once, when somebody wants to know the time: in the middle of a transaction, for example."""

    def __init__(self) -> None:
        super().__init__()
        self.question: Callable[[], object] | None = None
        self.answers: list[object] = []

    def now(self) -> dt.datetime:
        question, self.question = self.question, None
        if question is not None:
            self.answers.append(question())
        return super().now()
