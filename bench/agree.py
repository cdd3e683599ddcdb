"""Whether two runs say the same: what a reader compares before believing one of them.

``.venv/bin/python bench/agree.py FIRST.json SECOND.json`` lists the figures on which they disagree. Two runs agree on a
ratio when the intervals overlap, and on a figure of a table when the ranges of its values do, or when its medians are
within ``CLOSE`` of each other. A rented machine is faster on one day than on another: what is compared is the second
run's seconds as the first run's machine would have taken, which is the same share of all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import Figure, Line, Row, Samples, Table, two
from bench.intervals import Interval

CLOSE = 0.15
"""Share of the smaller median: what the drift test takes for no change either."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A figure in both runs."""

    name: str
    first: float
    second: float
    agrees: bool

    def __str__(self) -> str:
        return f"{self.name}: {two(self.first)} and {two(self.second)}"


def pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Pair]:
    """Every figure that both runs have."""
    share = slower(first, second)
    rows = {row.name: row for row in map(Row.of, second["rows"])}
    for row in map(Row.of, first["rows"]):
        if row.name in rows:
            other = rows[row.name]
            if row.peer is None and row.unit == "s":
                other = dataclasses.replace(other, ours=_scaled(other.ours, share))
            agrees = _overlap(row.interval, other.interval) or _close(row.judged, other.judged)
            yield Pair(row.name, row.judged, other.judged, agrees)
    tables = {table.key: table for table in map(Table.of, second["tables"])}
    for table in map(Table.of, first["tables"]):
        if table.key in tables:
            yield from _of_table(table, tables[table.key], share)


def slower(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """How many times as long things took in the second run: the median of all figures in seconds, whoever's; 1 without.

    A contender that changes alone changes it by next to nothing.
    """
    tables = {table.key: table for table in map(Table.of, second["tables"])}
    shares = [
        theirs.median / ours.median
        for table in map(Table.of, first["tables"])
        if table.key in tables
        for _, column, ours, theirs in _common(table, tables[table.key])
        if column.unit == "s" and ours.median
    ]
    return statistics.median(shares) if shares else 1.0


def _common(first: Table, second: Table) -> Iterator[tuple[Line, Figure, Samples, Samples]]:
    lines = {line.key: line for line in second.lines}
    for line in first.lines:
        others = lines[line.key].figures if line.key in lines else {}
        for column in first.columns:
            if column.key in line.figures and column.key in others:
                yield line, column, line.figures[column.key], others[column.key]


def _of_table(first: Table, second: Table, share: float) -> Iterator[Pair]:
    for line, column, ours, theirs in _common(first, second):
        scaled = _scaled(theirs, share if column.unit == "s" else 1.0)
        agrees = _overlap(_range(ours), _range(scaled)) or _close(ours.median, scaled.median)
        yield Pair(f"{first.key}, {line.title}, {column.title}", ours.median, theirs.median, agrees)


def _scaled(samples: Samples, share: float) -> Samples:
    return Samples([value / share for value in samples.values], samples.moments, samples.loads)


def _range(samples: Samples) -> Interval:
    return Interval(min(samples.values), max(samples.values))


def _overlap(one: Interval | None, other: Interval | None) -> bool:
    return one is not None and other is not None and one.low <= other.high and other.low <= one.high


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= CLOSE * min(abs(one), abs(other))


def main() -> None:
    parser = argparse.ArgumentParser(description="List the figures on which two runs of the bench disagree.")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    arguments = parser.parse_args()
    first, second = (json.loads(path.read_text()) for path in (arguments.first, arguments.second))
    found = list(pairs(first, second))
    disagreeing = [pair for pair in found if not pair.agrees]
    for pair in disagreeing:
        sys.stdout.write(f"{pair}\n")
    sys.stdout.write(f"the second run's machine took {slower(first, second):.2f} times as long\n")
    sys.stdout.write(f"the runs agree on {len(found) - len(disagreeing)} of {len(found)} figures\n")


if __name__ == "__main__":
    main()
