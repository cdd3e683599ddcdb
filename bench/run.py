"""``./dev bench``: imagecache beside the systems of its field, one run, one machine.

Contenders take turns, figures are medians, and every single value goes to ``bench/results/``. Nothing fails when a goal
is missed: the table says so. The run itself fails when a contender's values drift, because its figures then say more
about the machine than about the contender.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import (
    cluster,
    cold,
    controller,
    conversion,
    courses,
    direct,
    handlers,
    known,
    machine,
    namespaces,
    prepare,
    pulls,
    served,
    warm,
)  # fmt: skip
from bench.cold import Course
from bench.contender import Contender
from bench.contenders.node import EROFS_UTILS, IGZIP
from bench.courses import Plan
from bench.drift import Drift, drift
from bench.figures import Measured, Table, render_rows, render_table
from bench.fresh import Roots, pause, wait_after
from bench.images import Sizes
from testkit.peers.programs import cache
from testkit.peers.workspace import workspace

_PROGRAMS = {
    "igzip, tuned contenders": [str(IGZIP / "igzip"), "--version"],
    "mkfs.erofs, tuned contenders": [str(EROFS_UTILS / "mkfs.erofs"), "-V"],
}
_REMOVED = cache() / "bench-removed"
"""Its time is that of the last run's end, when its files were removed."""
_ROUNDS = 5
_PREPARES = 3
"""Rounds of preparing: each takes two minutes, most of them to optimize an eStargz image."""
_CLUSTER_PARTS = ((cluster.pods, 20, 1), (cluster.pins, 20, 1), (cluster.caches, _ROUNDS, 1), (cluster.joins, 3, 1))
"""With the rounds of a whole run and those of a quick one."""


@dataclass(slots=True)
class Bench:
    """A run: where it works, how much of it, and what it has found."""

    directory: Path
    roots: Roots
    quick: bool
    parts: Sequence[str]
    found: list[Measured] = field(default_factory=list)
    networks: dict[str, object] = field(default_factory=dict)
    """What each table's link has carried, and the processor seconds that it took for that."""
    facts: Mapping[str, object] = field(default_factory=dict)
    began: float = field(default_factory=time.time)
    ended: float = 0.0
    """When the last part was measured."""
    drift: Drift | None = None
    """Known when everything is measured."""

    def __post_init__(self) -> None:
        self.facts = machine.facts(self.directory, _PROGRAMS)

    def data(self) -> dict[str, object]:
        return {
            "facts": self.facts,
            "quick": self.quick,
            "parts": list(self.parts),
            "began": self.began,
            "ended": self.ended,
            "drift": self.drift.data() if self.drift is not None else None,
            "networks": self.networks,
            "images": {key: asdict(sizes) for key, sizes in self._sizes().items()},
            "tables": [table.data() for one in self.found for table in one.tables],
            "rows": [row.data() for one in self.found for row in one.rows],
        }

    def _sizes(self) -> dict[str, Sizes]:
        plans = (*self._plans(courses.COLD), *self._plans(courses.WARM))
        return {plan.image.key: Sizes.of(plan.image.make()) for plan in plans}

    @property
    def rounds(self) -> int:
        return 2 if self.quick else _ROUNDS

    def part(self, name: str) -> Measured:
        found: Measured = getattr(self, name)()
        return found

    def cold(self) -> Measured:
        first, *others = (self._table(plan, cold.measure) for plan in self._plans(courses.COLD))
        compared = cold.compare(first)
        return Measured(compared.rows, [first, *others])

    def warm(self) -> Measured:
        found = [
            warm.compare(
                self._table(plan, warm.measure), f", read-ahead {plan.read_ahead} KiB" if plan.read_ahead else ""
            )
            for plan in self._plans(courses.WARM)
        ]
        return Measured([row for one in found for row in one.rows], [table for one in found for table in one.tables])

    def _plans(self, plans: Sequence[Plan]) -> list[Plan]:
        if not self.quick:
            return list(plans)
        keys = {plan.key for plan in plans}
        return [plan for plan in courses.QUICK if plan.key in keys]

    def _table(self, plan: Plan, measure: Callable[[Course, Sequence[Contender], Roots], Table]) -> Table:
        note(f"{plan.title}, {plan.rounds} rounds")
        with contextlib.ExitStack() as stack:
            if plan.read_ahead is not None:
                stack.enter_context(machine.read_ahead(machine.Disk.of(self.directory), plan.read_ahead))
            site = stack.enter_context(courses.site(self.directory / plan.key, plan.network))
            table = measure(plan.course(site), plan.contenders, self.roots)
            if site.link is not None:
                self.networks[plan.key] = asdict(plan.network) | asdict(site.link.counts())
        sys.stdout.write(f"\n{table.title}\n\n{render_table(table)}\n")
        return table

    def prepare(self) -> Measured:
        with courses.site(self.directory / "prepare", courses.LOOPBACK) as site:
            return prepare.measure(site, courses.BIG.image(), min(self.rounds, _PREPARES), self.roots)

    def pull(self) -> Measured:
        with courses.site(self.directory / "pull", courses.LOOPBACK) as site:
            return pulls.measure(site, courses.BIG.image(), self.rounds, self.roots)

    def convert(self) -> Measured:
        return conversion.measure(courses.BIG.image(), self.rounds, self.roots)

    def namespaces(self) -> Measured:
        with courses.site(self.directory / "namespaces", courses.LOOPBACK) as site:
            return namespaces.measure(site, [courses.SMALL, courses.BIG], self.rounds, self.roots)

    def handlers(self) -> Measured:
        with courses.site(self.directory / "handlers", courses.LOOPBACK) as site:
            return handlers.measure(site, courses.BIG, self.rounds, self.roots)

    def direct(self) -> Measured:
        with courses.site(self.directory / "direct", courses.LOOPBACK) as site:
            return direct.measure(site, courses.BIG, self.rounds, self.roots)

    def served(self) -> Measured:
        return served.measure(self.directory / "served", courses.BIG, self.rounds, self.roots)

    def pods(self) -> Measured:
        """Pods, caches and a node that joins share one cluster."""
        with cluster.site(self.directory, courses.BIG, self.roots) as site:
            parts = [part(site, quick if self.quick else whole) for part, whole, quick in _CLUSTER_PARTS]
        return Measured([row for one in parts for row in one.rows], [table for one in parts for table in one.tables])

    def controller(self) -> Measured:
        return controller.measure(self.directory, 1)

    def known(self) -> Measured:
        return known.measure(self.directory)


PARTS = (
    "cold",
    "warm",
    "prepare",
    "pull",
    "convert",
    "namespaces",
    "handlers",
    "direct",
    "served",
    "pods",
    "controller",
    "known",
)
QUICK_PARTS = ("cold", "warm", "pull", "convert", "pods", "known")


def _write(output: Path, bench: Bench) -> None:
    output.write_text(json.dumps(bench.data(), indent=1) + "\n")


def note(text: str) -> None:
    sys.stderr.write(f"[bench] {dt.datetime.now(dt.UTC):%H:%M:%S} {text}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure imagecache beside the systems of its field.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure (everything)")
    parser.add_argument(
        "--quick", action="store_true", help="fewer contenders and turns, for a change's before and after"
    )
    parser.add_argument("--output", type=Path, help="raw data (bench/results/DATE.json)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as Ctrl-C ends it, with everything cleaned up
    now = dt.datetime.now(dt.UTC)
    output = arguments.output or Path(__file__).parent / "results" / f"{now:%Y-%m-%d-%H%M}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    machine.restore()
    with workspace() as directory:
        bench = Bench(directory, Roots(directory), arguments.quick, arguments.parts)
        seconds = wait_after(_REMOVED.stat().st_mtime if _REMOVED.exists() else 0.0)
        note(f"a pause of {seconds:.0f} s: what was removed before must not slow down the first turns")
        pause(seconds)
        for name in arguments.parts or (QUICK_PARTS if arguments.quick else PARTS):
            note(name)
            bench.found.append(bench.part(name))
            bench.ended = time.time()
            _write(output, bench)  # now: a later part may fail
            sys.stdout.write(f"\n{render_rows(bench.found[-1].rows)}\n" if bench.found[-1].rows else "")
        bench.drift = drift(bench.found)
        _write(output, bench)
    _REMOVED.touch()
    sys.stdout.write(f"\nraw data: {output}\nto the documents: .venv/bin/python bench/report.py {output}\n")
    if bench.drift.fails:
        sys.exit(f"the machine changed during the run, so do not use its figures: {bench.drift.text}")


if __name__ == "__main__":
    main()
