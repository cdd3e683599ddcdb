"""Measurements as data: every value is kept with its moment and the machine's load; tables show medians and ratios.

A row compares us with a peer, and a table has several contenders with several figures each. Every ratio has its
bootstrap interval, and a goal is met when the whole interval is on its side. It must not measure anything itself.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.intervals import Interval, Trend, ratio_interval, trend, value_interval

MB = 1e6
"""Bytes."""


@dataclass(slots=True)
class Samples:
    """One figure of one contender, in the order in which it was measured."""

    values: list[float] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    """Seconds since 1970, of each value."""
    loads: list[float] = field(default_factory=list)
    """The load average of one minute, at each."""

    def add(self, value: float) -> None:
        self.values.append(value)
        self.moments.append(time.time())
        self.loads.append(os.getloadavg()[0])

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def data(self) -> dict[str, Any]:
        return {
            "values": self.values,
            "moments": [round(moment, 1) for moment in self.moments],
            "loads": [round(load, 2) for load in self.loads],
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Samples:
        return cls(list(data["values"]), list(data["moments"]), list(data["loads"]))


def pooled(contenders: Sequence[Samples]) -> Trend:
    """The trend of a figure over a run, of all contenders together: each value is a share of its contender's median.

    A machine that gets slower slows all of them, and three turns of each of eight are 24 values. One contender that
    changes alone is lost among them: ``Row.trends``, ``Table.trends``.
    """
    shares = [
        (moment, value / one.median)
        for one in contenders
        if one.values and one.median
        for moment, value in zip(one.moments, one.values, strict=True)
    ]
    return trend([share for _, share in sorted(shares)])


def single(value: float) -> Samples:
    """What is measured once."""
    samples = Samples()
    samples.add(value)
    return samples


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many of all do not exceed; the median for 0.5."""
    if share == 0.5:
        return statistics.median(values)
    return sorted(values)[math.ceil(share * len(values)) - 1]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure must reach: at most the bound, or at least it."""

    bound: float
    at_least: bool = False
    unit: str = "×"

    @property
    def text(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}{self.unit if self.unit == '×' else f' {self.unit}'}"

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def verdict(self, value: float, interval: Interval | None) -> str:
        """``✓``, ``✗``, or ``~`` when the interval has the bound in it; in brackets when there is no interval."""
        if interval is None:
            return "(✓)" if self.met(value) else "(✗)"
        met = [self.met(end) for end in (interval.low, interval.high)]
        if all(met):
            return "✓"
        return "~" if any(met) else "✗"


@dataclass(slots=True)
class Row:
    """A figure of ours beside that of a peer, measured in turn in the same run."""

    measure: str
    ours: Samples
    peer: Samples | None = None
    peer_name: str = ""
    goal: Goal | None = None
    faster: bool = False
    """Show peer/ours ("times as fast") instead of ours/peer."""
    unit: str = "s"
    note: str = ""
    """Which mode of ours, or what else tells rows of one measure apart."""
    share: float = 0.5
    """Which quantile of the values is shown and judged."""

    def statistic(self, values: Sequence[float]) -> float:
        return quantile(values, self.share)

    @property
    def shown(self) -> float:
        return self.statistic(self.ours.values)

    @property
    def ratio(self) -> float | None:
        if self.peer is None:
            return None
        peer = self.statistic(self.peer.values)
        return peer / self.shown if self.faster else self.shown / peer

    @property
    def judged(self) -> float:
        ratio = self.ratio
        return self.shown if ratio is None else ratio

    @property
    def is_even(self) -> bool:
        """Whether the interval of the ratio has 1 in it."""
        return self.interval is not None and 1 in self.interval

    @property
    def interval(self) -> Interval | None:
        if self.peer is None:
            return value_interval(self.ours.values, self.statistic)
        above, below = (self.peer, self.ours) if self.faster else (self.ours, self.peer)
        return ratio_interval(above.values, below.values, self.statistic)

    @property
    def verdict(self) -> str:
        return self.goal.verdict(self.judged, self.interval) if self.goal else ""

    @property
    def name(self) -> str:
        return f"{self.measure}{f' ({self.note})' if self.note else ''}"

    def trends(self) -> Iterator[tuple[str, Trend]]:
        yield self.name, pooled([self.ours] if self.peer is None else [self.ours, self.peer])
        if self.peer is not None:
            yield f"{self.name}: imagecache", trend(self.ours.values)
            yield f"{self.name}: {self.peer_name}", trend(self.peer.values)

    def data(self) -> dict[str, Any]:
        interval = self.interval
        return {
            "measure": self.measure,
            "note": self.note,
            "unit": self.unit,
            "imagecache": self.ours.data(),
            "peer": self.peer.data() if self.peer else None,
            "peer_name": self.peer_name,
            "faster": self.faster,
            "share": self.share,
            "shown": self.shown,
            "ratio": self.ratio,
            "interval": [interval.low, interval.high] if interval else None,
            "goal": asdict(self.goal) if self.goal else None,
            "verdict": self.verdict or None,
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Row:
        """What ``data`` gave."""
        return cls(
            data["measure"],
            Samples.of(data["imagecache"]),
            Samples.of(data["peer"]) if data["peer"] else None,
            data["peer_name"],
            Goal(**data["goal"]) if data["goal"] else None,
            data["faster"],
            data["unit"],
            data["note"],
            data["share"],
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """A column of a table."""

    key: str
    title: str
    unit: str


@dataclass(slots=True)
class Line:
    """One contender of a table."""

    key: str
    title: str
    durable: bool
    """Whether its layers are on the disk when it says that it is done."""
    figures: dict[str, Samples]

    def add(self, **values: float) -> None:
        for key, value in values.items():
            self.figures.setdefault(key, Samples()).add(value)


@dataclass(slots=True)
class Table:
    """Contenders that did the same in turn, in one run."""

    key: str
    title: str
    columns: Sequence[Figure]
    lines: list[Line]

    def line(self, key: str) -> Line:
        """Raises KeyError."""
        return {line.key: line for line in self.lines}[key]

    def trends(self) -> Iterator[tuple[str, Trend]]:
        for column in self.columns:
            found = [line.figures[column.key] for line in self.lines if column.key in line.figures]
            yield f"{self.title}: {column.title}", pooled(found)
            for line in self.lines:
                if column.key in line.figures:
                    yield f"{self.title}: {column.title}, {line.title}", trend(line.figures[column.key].values)

    def data(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "title": self.title,
            "columns": [{"key": one.key, "title": one.title, "unit": one.unit} for one in self.columns],
            "lines": [
                {
                    "key": line.key,
                    "title": line.title,
                    "durable": line.durable,
                    "figures": {key: samples.data() for key, samples in line.figures.items()},
                }
                for line in self.lines
            ],
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Table:
        """What ``data`` gave."""
        lines = [
            Line(
                line["key"],
                line["title"],
                line["durable"],
                {key: Samples.of(samples) for key, samples in line["figures"].items()},
            )
            for line in data["lines"]
        ]
        return cls(data["key"], data["title"], [Figure(**column) for column in data["columns"]], lines)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a part of the bench found."""

    rows: Sequence[Row] = ()
    tables: Sequence[Table] = ()

    def trends(self) -> Iterator[tuple[str, Trend]]:
        for row in self.rows:
            yield from row.trends()
        for table in self.tables:
            yield from table.trends()


def two(value: float) -> str:
    """Two digits that count, and no more: ``0.19``, ``2.8``, ``27``, ``1,100``."""
    if not value:
        return "0"
    digits = 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    digits = 1 - math.floor(math.log10(abs(rounded)))  # 9.96 is 10, not 10.0
    return f"{rounded:,.{max(0, digits)}f}"


def times(ratio: float) -> str:
    """A ratio: with two decimals near 1, where goals and intervals differ by hundredths."""
    return f"{ratio:.2f}" if 0.1 <= ratio < 2 else two(ratio)


def amount(value: float, unit: str) -> str:
    """A value with its unit: seconds below one as milliseconds."""
    if unit == "s" and abs(value) < 1:
        return f"{two(value * 1000)} ms"
    return f"{two(value)} {unit}".rstrip()


def render_rows(rows: Sequence[Row]) -> str:
    """The comparisons in Markdown, as docs/benchmarks.md has them."""
    lines = [
        "| measure | imagecache | peer | ratio | 95 % interval | must reach | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peer = f"{amount(row.statistic(row.peer.values), row.unit)}, {row.peer_name}" if row.peer else "–"
        ratio = f"{times(row.ratio)}×" if row.ratio is not None else "–"
        interval, shown = row.interval, times if row.peer else two
        ends = f"{shown(interval.low)}–{shown(interval.high)}" if interval else "–"
        goal = row.goal.text if row.goal else ""
        lines.append(
            f"| {row.name} | {amount(row.shown, row.unit)} | {peer} | {ratio} | {ends} | {goal} | {row.verdict} |"
        )
    return "\n".join(lines)


def render_table(table: Table) -> str:
    """A table in Markdown: medians, and the least and greatest value of figures that have several.

    ``turns``: how many values most figures have; those that take long may have fewer.
    """
    columns = [one for one in table.columns if any(one.key in line.figures for line in table.lines)]
    heads = [f"{one.title}, {one.unit}" if one.unit else one.title for one in columns]
    lines = [f"| | {' | '.join(heads)} | turns | synced |", f"|---|{'---|' * len(heads)}---|---|"]
    for line in table.lines:
        cells = [_cell(line.figures.get(one.key)) for one in columns]
        turns = max((len(samples.values) for samples in line.figures.values()), default=0)
        lines.append(f"| {line.title} | {' | '.join(cells)} | {turns} | {'yes' if line.durable else 'no'} |")
    return "\n".join(lines)


def _cell(samples: Samples | None) -> str:
    if samples is None or not samples.values:
        return "–"
    low, high = two(min(samples.values)), two(max(samples.values))
    return two(samples.median) if low == high else f"{two(samples.median)} ({low}–{high})"
