"""Measurements as data: every single value is kept, the table shows medians (or another quantile) and ratios.

It must not measure anything itself.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Samples:
    """One figure of one contender; seconds unless the name says otherwise."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def quantile(self, share: float) -> float:
        """The smallest value that so many of all do not exceed; the median for 0.5."""
        if share == 0.5:
            return self.median
        return sorted(self.values)[math.ceil(share * len(self.values)) - 1]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure must reach. ``factor`` is this contender's median over the other's, or the other way round."""

    text: str
    bound: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(slots=True)
class Row:
    """One line of the table: a contender against a peer, measured in turn in the same run."""

    measure: str
    ours: Samples
    peer: Samples | None
    goal: Goal | None = None
    faster: bool = False
    """Show peer/ours ("times as fast") instead of ours/peer."""
    unit: str = "s"
    note: str = ""
    share: float = 0.5
    """Which quantile of the values is shown and judged."""

    @property
    def shown(self) -> float:
        return self.ours.quantile(self.share)

    @property
    def ratio(self) -> float | None:
        if self.peer is None:
            return None
        ours, peer = self.shown, self.peer.quantile(self.share)
        return peer / ours if self.faster else ours / peer

    @property
    def judged(self) -> float:
        ratio = self.ratio
        return self.shown if ratio is None else ratio


def render(rows: list[Row]) -> str:
    """The table in Markdown, as docs/benchmarks.md has it."""
    lines = ["| measure | imagecache | peer | ratio | must reach | |", "|---|---|---|---|---|---|"]
    for row in rows:
        peer = f"{row.peer.quantile(row.share):.3f} {row.unit}" if row.peer else "–"
        ratio = f"{row.ratio:.2f}×" if row.ratio is not None else "–"
        goal, verdict = ("", "")
        if row.goal is not None:
            goal, verdict = row.goal.text, "✓" if row.goal.met(row.judged) else "✗"
        name = f"{row.measure}{f' ({row.note})' if row.note else ''}"
        lines.append(f"| {name} | {row.shown:.3f} {row.unit} | {peer} | {ratio} | {goal} | {verdict} |")
    return "\n".join(lines)


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
        "cpu": _cpu(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def save(path: Path, rows: list[Row], facts: Mapping[str, object]) -> None:
    """Raw data: every value of every contender."""
    document = {
        "machine": machine(),
        "facts": dict(facts),
        "rows": [
            {
                "measure": row.measure,
                "note": row.note,
                "unit": row.unit,
                "imagecache": row.ours.values,
                "peer": row.peer.values if row.peer else None,
                "ratio": row.ratio,
                "goal": row.goal.text if row.goal else None,
                "met": row.goal.met(row.judged) if row.goal else None,
            }
            for row in rows
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
