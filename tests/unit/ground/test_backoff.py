from __future__ import annotations

import math

import pytest
from structlog.testing import capture_logs

from imagecache.backoff import Attempts, Backoff, Retries, Retryable
from imagecache.errors import KubernetesUnavailable, StoreUnreachable
from imagecache.telemetry.log import get_logger

AWAY = KubernetesUnavailable("the API server does not answer", hint="is it running?")


def test_pauses_double_to_a_bound() -> None:
    backoff = Backoff(0.5, 30.0)
    assert [backoff.pause(failures) for failures in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.pause(1_000_000) == 30.0


def test_equal_ends_make_a_constant_pause() -> None:
    assert [Backoff(5.0, 5.0).pause(failures) for failures in (1, 2, 50)] == [5.0, 5.0, 5.0]


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_jitter_varies_a_pause_in_both_directions(chance: float, expected: float) -> None:
    assert Backoff(1.0, 30.0, jitter=0.2, chance=lambda: chance).pause(1) == pytest.approx(expected)


def test_retries_grow_until_success() -> None:
    retries = Retries(Backoff(1.0, 4.0))
    assert [retries.failed(AWAY), retries.failed(), retries.failed(AWAY), retries.failed()] == [1, 2, 4, 4]
    retries.succeeded()
    assert retries.failed() == 1


def test_a_problem_is_logged_once_until_it_changes_or_is_solved() -> None:
    retries = Retries(Backoff(1.0, 1.0), get_logger("test"), "not reached", resource="nodes")
    with capture_logs() as logs:
        for error in (AWAY, AWAY, None, AWAY, KubernetesUnavailable("busy"), AWAY):
            retries.failed(error)
        retries.succeeded()
        retries.failed(AWAY)
    assert [line["problem"] for line in logs] == [str(AWAY), "busy", str(AWAY), str(AWAY)]
    assert logs[0] == {
        "event": "not reached",
        "log_level": "warning",
        "resource": "nodes",
        "reason": "KubernetesUnavailable",
        "problem": str(AWAY),
        "hint": "is it running?",
    }
    assert "hint" not in logs[1]


class Asked:
    """An operation that works the ``works``-th time, and a sleep that takes no time."""

    def __init__(self, works: int, after: float | None = None) -> None:
        self.calls = 0
        self.slept: list[float] = []
        self._works = works
        self._after = after

    async def __call__(self) -> int:
        self.calls += 1
        if self.calls < self._works:
            raise Retryable(StoreUnreachable(f"failure {self.calls}"), self._after) from OSError("broken")
        return self.calls

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def attempts(self, limit: int, longest_asked: float = math.inf) -> Attempts:
        return Attempts(limit, Backoff(0.5, 2.0), self.sleep, longest_asked)


async def test_an_operation_is_called_until_it_works() -> None:
    asked = Asked(works=5)
    assert await asked.attempts(5).run(asked) == 5
    assert asked.slept == [0.5, 1, 2, 2]


async def test_after_the_last_attempt_the_error_is_raised_with_its_cause() -> None:
    asked = Asked(works=5)
    with pytest.raises(StoreUnreachable, match="failure 3") as raised:
        await asked.attempts(3).run(asked)
    assert isinstance(raised.value.__cause__, OSError)
    assert asked.slept == [0.5, 1]


async def test_the_other_side_may_say_how_long_to_wait() -> None:
    asked = Asked(works=2, after=7.0)
    assert await asked.attempts(5, longest_asked=10).run(asked) == 2
    assert asked.slept == [7.0]


async def test_a_longer_wait_than_allowed_is_not_begun() -> None:
    asked = Asked(works=2, after=11.0)
    with pytest.raises(StoreUnreachable):
        await asked.attempts(5, longest_asked=10).run(asked)
    assert asked.slept == []


async def test_progress_counts_failures_anew() -> None:
    asked = Asked(works=0)
    attempts = asked.attempts(3)
    again = Retryable(StoreUnreachable("cut"))
    await attempts.wait(again)
    await attempts.wait(again)
    attempts.progress()
    await attempts.wait(again)
    assert asked.slept == [0.5, 1, 0.5]
