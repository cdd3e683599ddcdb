"""Whether the machine changed during a run: more figures trend than the same values do in any order.

A run has some 650 figures of three to forty turns. ``Trend.drifts`` judges one of them; among so many some trend by
accident, and on the same machine every run has others. So a run is compared with itself: each contender's turns are
shuffled, all its figures alike because a slow turn shows in several, and the trends are counted again. A run drifts
when more figures trend than in 95 of 100 such shuffles, or when one trends so clearly that none of so many would by
accident. Source: Good, "Permutation, Parametric, and Bootstrap Tests of Hypotheses", ch. 3; Bonferroni's bound.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.figures import Line, Measured, Row, Samples
from bench.intervals import Trend

_SHUFFLES = 100
_ACCIDENT = 0.05
_MANY = 50
"""Values of a figure above which it is not shuffled: its own chance tells a trend from an accident."""


@dataclass(frozen=True, slots=True)
class Drift:
    """What a run's figures do from its first turn to its last."""

    figures: int
    """Tested: those of contenders, and of all contenders of a table together."""
    trending: tuple[str, ...]
    """Those with a trend, and how large it is."""
    usual: int
    """How many the shuffled values have: the median."""
    most: int
    """No more than so many in 95 of 100 shuffles."""
    certain: tuple[str, ...]
    """Those of ``trending`` that no accident explains."""

    @property
    def fails(self) -> bool:
        return bool(self.certain) or len(self.trending) > self.most

    @property
    def text(self) -> str:
        """One sentence, and what trends after it."""
        listed = f" ({'; '.join(self.trending)})" if self.trending else ""
        found = f"{len(self.trending)} of {self.figures} figures trend from the first turn to the last{listed}"
        usual = f"the same values in any order have {self.usual}, and in 95 of 100 orders at most {self.most}"
        certain = f", and no order has {'; '.join(self.certain)}" if self.certain else ""
        return f"{found}; {usual}{certain}."

    def data(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Drift:
        """What ``data`` gave, also as JSON has it."""
        read: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in data.items()}
        return cls(**read)


def drift(found: Iterable[Measured]) -> Drift:
    """Of all parts of a run. The same values have the same result."""
    parts = list(found)
    trends = [each for one in parts for each in one.trends()]
    few = [_of_few(one) for one in parts]
    source = random.Random(1)  # noqa: S311 - shuffles, not secrets
    counts = sorted(sum(_count(_shuffled(one, source)) for one in few) for _ in range(_SHUFFLES))
    certain = _ACCIDENT / max(1, len(trends))
    return Drift(
        figures=len(trends),
        trending=tuple(_shown(name, each) for name, each in trends if each.drifts),
        usual=counts[len(counts) // 2],
        most=counts[int(len(counts) * (1 - _ACCIDENT)) - 1],
        certain=tuple(_shown(name, each) for name, each in trends if each.drifts and each.chance <= certain),
    )


def _shown(name: str, found: Trend) -> str:
    return f"{name} {found.change:+.0%}"


def _count(found: Measured) -> int:
    return sum(each.drifts for _, each in found.trends())


def _of_few(found: Measured) -> Measured:
    """Without the rows of many values, whose pairs take long to compare."""
    rows = [row for row in found.rows if max(len(samples.values) for samples in _sides(row)) <= _MANY]
    return Measured(rows, found.tables)


def _sides(row: Row) -> list[Samples]:
    return [row.ours] if row.peer is None else [row.ours, row.peer]


def _shuffled(found: Measured, source: random.Random) -> Measured:
    rows = []
    for row in found.rows:
        ours, *peer = (_in_order(samples, _order(samples, source)) for samples in _sides(row))
        rows.append(replace(row, ours=ours, peer=peer[0] if peer else None))
    tables = [replace(table, lines=[_line(line, source) for line in table.lines]) for table in found.tables]
    return Measured(rows, tables)


def _line(line: Line, source: random.Random) -> Line:
    """Its figures in one order: a turn stays together. Those of fewer turns have an order of their own."""
    orders: dict[int, Sequence[int]] = {}
    figures = {}
    for key, samples in line.figures.items():
        order = orders.setdefault(len(samples.values), _order(samples, source))
        figures[key] = _in_order(samples, order)
    return replace(line, figures=figures)


def _order(samples: Samples, source: random.Random) -> Sequence[int]:
    return source.sample(range(len(samples.values)), len(samples.values))


def _in_order(samples: Samples, order: Sequence[int]) -> Samples:
    """Other values at the same moments."""
    return Samples([samples.values[index] for index in order], samples.moments, samples.loads)
