"""How far a figure can be trusted: an interval for every ratio, and a test that the machine did not change meanwhile.

Pure functions over plain numbers. A ratio of two medians has no closed-form interval that holds for five values, so it
is bootstrapped: both sides are drawn again, with replacement, and the middle 95 % of the ratios are the interval
(percentile bootstrap; Efron, Tibshirani, "An Introduction to the Bootstrap", ch. 13). A drift is a trend over the
turns: Kendall's rank correlation with time, with the exact chance of one as strong by accident, and the size of the
change by Theil and Sen's slope.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
_DRAWS = 2000
LEAST = 5
"""Values of each side below which there is no interval: the bootstrap of three is their range, and covers 75 %."""
_CHANCE = 0.05
_CHANGE = 0.15
"""Share of the median. A trend that is smaller over the whole run hides behind no interval."""
_LARGE = 0.4
"""The same, for values that are too few for a chance and only rise, or only fall."""

Statistic = Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def ratio_interval(above: Sequence[float], below: Sequence[float], statistic: Statistic) -> Interval | None:
    """Of ``statistic(above) / statistic(below)``; None when one side has fewer than ``LEAST`` values."""
    if min(len(above), len(below)) < LEAST:
        return None
    source = random.Random(1)  # noqa: S311 - the same data has the same interval
    ratios = sorted(
        statistic(source.choices(above, k=len(above))) / statistic(source.choices(below, k=len(below)))
        for _ in range(_DRAWS)
    )
    return _middle(ratios)


def value_interval(values: Sequence[float], statistic: Statistic) -> Interval | None:
    """Of ``statistic(values)``; None for fewer than ``LEAST``."""
    if len(values) < LEAST:
        return None
    source = random.Random(1)  # noqa: S311 - the same data has the same interval
    return _middle(sorted(statistic(source.choices(values, k=len(values))) for _ in range(_DRAWS)))


def _middle(ordered: Sequence[float]) -> Interval:
    cut = math.floor(len(ordered) * (1 - CONFIDENCE) / 2)
    return Interval(ordered[cut], ordered[-1 - cut])


@dataclass(frozen=True, slots=True)
class Trend:
    """Of values in the order in which they were measured."""

    change: float
    """From the first turn to the last, as a share of the median."""
    chance: float
    """Of a trend that is as strong in either direction when time has no effect, 0 to 1."""
    monotonic: bool
    """Each value is larger than the one before, or each is smaller; of three or more."""

    @property
    def drifts(self) -> bool:
        large = self.monotonic and abs(self.change) >= _LARGE
        return large or (self.chance <= _CHANCE and abs(self.change) >= _CHANGE)


def trend(values: Sequence[float]) -> Trend:
    """Raises nothing: fewer than three values, and those around zero, have no trend."""
    if len(values) < 3 or not statistics.median(values):
        return Trend(0.0, 1.0, monotonic=False)
    pairs = list(itertools.combinations(range(len(values)), 2))
    slope = statistics.median((values[late] - values[early]) / (late - early) for early, late in pairs)
    change = slope * (len(values) - 1) / statistics.median(values)
    falls = sum(values[late] < values[early] for early, late in pairs)
    rises = sum(values[late] > values[early] for early, late in pairs)
    return Trend(change, _chance(len(values), abs(rises - falls)), monotonic=len(pairs) in {rises, falls})


def _chance(count: int, score: int) -> float:
    """Of |S| at least ``score`` among all orders of ``count`` values; Kendall's S is rising pairs less falling pairs.

    Orders are counted by their number of falling pairs: the n-th value adds 0 to n-1 of them, all equally likely.
    """
    shares = [1.0]
    for size in range(2, count + 1):
        sums = [0.0, *itertools.accumulate(shares)]
        last = len(shares)
        shares = [
            (sums[min(falls + 1, last)] - sums[max(0, falls + 1 - size)]) / size for falls in range(last + size - 1)
        ]
    pairs = len(shares) - 1
    return sum(share for falls, share in enumerate(shares) if abs(pairs - 2 * falls) >= score)
