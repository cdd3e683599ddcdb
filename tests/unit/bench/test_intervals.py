"""Intervals hold what they must, and a machine that changes during a run is noticed."""

from __future__ import annotations

import random
import statistics

import pytest

from bench.intervals import LEAST, Interval, ratio_interval, trend, value_interval


def test_the_interval_of_a_ratio_lies_between_its_extremes() -> None:
    interval = ratio_interval([2.0, 2.2, 1.9, 2.1, 2.0], [1.0, 1.1, 0.9, 1.0, 1.0], statistics.median)

    assert interval is not None
    assert 1.9 / 1.1 <= interval.low <= 2.0 <= interval.high <= 2.2 / 0.9


def test_the_same_data_has_the_same_interval() -> None:
    values = [1.0, 1.3, 0.8, 1.1, 1.2]

    assert value_interval(values, statistics.median) == value_interval(values, statistics.median)


def test_four_values_have_no_interval() -> None:
    four = [1.0, 2.0, 3.0, 4.0]

    assert value_interval(four, statistics.median) is None
    assert ratio_interval([*four, 5.0], four, statistics.median) is None


def test_intervals_cover_the_true_ratio_about_as_often_as_they_say() -> None:
    source = random.Random(3)
    covered = 0
    for _ in range(200):
        above = [source.gauss(2.0, 0.2) for _ in range(LEAST)]
        below = [source.gauss(1.0, 0.1) for _ in range(LEAST)]
        interval = ratio_interval(above, below, statistics.median)
        assert interval is not None
        covered += 2.0 in interval

    assert covered >= 180


def test_membership_includes_the_ends() -> None:
    assert 1.0 in Interval(1.0, 2.0)
    assert 2.1 not in Interval(1.0, 2.0)


@pytest.mark.parametrize(
    ("values", "drifts"),
    [
        ([20.0, 30.0, 39.0, 41.0, 44.0], True),  # each turn slower than the one before: the harness of 2026-11-27
        ([35.3, 34.0, 27.4, 23.4, 23.3], True),  # and of the same day, faster
        ([15.5, 15.3, 15.7, 15.4, 15.6], False),
        ([15.0, 15.2, 15.4, 15.6, 15.8], False),  # a trend too small to matter
        ([10.0, 20.0, 10.0, 20.0, 10.0], False),  # noise, not a trend
        ([20.0, 30.0, 39.0], True),  # too few for a chance, but only rising, and doubled
        ([1.0, 1.1, 1.2, 1.3], False),  # too few, and not so large
        ([1.0, 3.0, 2.0, 4.0], False),  # too few, and not only rising
        ([1.0, 4.0], False),
        ([0.0, 0.0, 0.0, 0.0, 0.0], False),
    ],
)
def test_a_drift_is_a_strong_and_large_trend(values: list[float], drifts: bool) -> None:
    assert trend(values).drifts is drifts


def test_the_chance_of_a_monotonic_order_is_exact() -> None:
    assert trend([1.0, 2.0, 3.0, 4.0, 5.0]).chance == pytest.approx(2 / 120)
    assert trend([1.0, 3.0, 2.0]).chance == pytest.approx(1.0)


def test_many_values_are_judged_too() -> None:
    source = random.Random(5)
    level = [source.gauss(0.18, 0.03) for _ in range(200)]
    rising = [value * (1 + number / 400) for number, value in enumerate(level)]

    assert not trend(level).drifts
    assert trend(rising).drifts
