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
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import cluster, cold, controller, conversion, courses, machine, prepare, pulls, warm
from bench.cold import Course
from bench.contender import Contender
from bench.contenders.node import EROFS_UTILS, IGZIP
from bench.courses import Plan
from bench.figures import Measured, Samples, Table, render_rows, render_table
from bench.fresh import Roots
from testkit.peers.workspace import workspace

_PROGRAMS = {
    "igzip, tuned contenders": [str(IGZIP / "igzip"), "--version"],
    "mkfs.erofs, tuned contenders": [str(EROFS_UTILS / "mkfs.erofs"), "-V"],
}
_RESERVE = 20 << 30
"""Bytes that must be free before a turn: more than any leaves."""
_ROUNDS = 5
_IN_CLUSTER = 3
"""Rounds there: each has forty pods of every node."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A run: where it works, and how much of it."""

    directory: Path
    roots: Roots
    quick: bool

    @property
    def rounds(self) -> int:
        return 2 if self.quick else _ROUNDS

    def cold(self) -> Measured:
        return Measured(tables=[self._table(plan, cold.measure) for plan in self._plans(courses.COLD)])

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
        sys.stdout.write(f"\n{table.title}\n\n{render_table(table)}\n")
        return table

    def prepare(self) -> Measured:
        with courses.site(self.directory / "prepare", courses.LOOPBACK) as site:
            return prepare.measure(site, courses.BIG.image(), self.rounds, self.roots)

    def pull(self) -> Measured:
        with courses.site(self.directory / "pull", courses.LOOPBACK) as site:
            return pulls.measure(site, courses.BIG.image(), self.rounds, self.roots)

    def convert(self) -> Measured:
        return conversion.measure(courses.BIG.image(), self.rounds)

    def pods(self) -> Measured:
        """Pods, caches and a node that joins share one cluster."""
        with cluster.site(self.directory, courses.BIG, self.roots) as site:
            parts = [part(site, _IN_CLUSTER) for part in (cluster.pods, cluster.caches, cluster.joins)]
        return Measured([row for one in parts for row in one.rows], [table for one in parts for table in one.tables])

    def controller(self) -> Measured:
        return controller.measure(self.directory, 1 if self.quick else 2)

    @property
    def parts(self) -> Mapping[str, Callable[[], Measured]]:
        every = (self.cold, self.warm, self.prepare, self.pull, self.convert, self.pods, self.controller)
        return {part.__name__: part for part in every}


PARTS = ("cold", "warm", "prepare", "pull", "convert", "pods", "controller")
QUICK_PARTS = ("cold", "warm", "pull", "convert")


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
    start = time.time()
    machine.restore()
    with workspace() as directory:
        facts = machine.facts(directory, _PROGRAMS)
        bench = Bench(directory, Roots(directory, _RESERVE), arguments.quick)
        found: list[Measured] = []
        for name in arguments.parts or (QUICK_PARTS if arguments.quick else PARTS):
            note(name)
            found.append(bench.parts[name]())
            sys.stdout.write(f"\n{render_rows(found[-1].rows)}\n" if found[-1].rows else "")
    document = {
        "facts": facts,
        "quick": arguments.quick,
        "parts": arguments.parts,
        "began": start,
        "ended": time.time(),
        "pauses": bench.roots.pauses,
        "tables": [table.data() for one in found for table in one.tables],
        "rows": [row.data() for one in found for row in one.rows],
    }
    output = arguments.output or Path(__file__).parent / "results" / f"{dt.datetime.now(dt.UTC):%Y-%m-%d-%H%M}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=1) + "\n")
    sys.stdout.write(f"\nraw data: {output}\n")
    sys.stdout.write(f"to the documents and pictures: .venv/bin/python bench/report.py {output}\n")
    drifting = list(dict.fromkeys(text for one in found for text in _drifts(one.samples())))
    if drifting:
        sys.exit("the machine changed during the run, so do not use its figures:\n" + "\n".join(drifting))


def _drifts(samples: Iterable[tuple[str, Samples]]) -> list[str]:
    return [
        f"- {name}: {one.trend.change:+.0%} from the first turn to the last (chance {one.trend.chance:.3f})"
        for name, one in samples
        if one.trend.drifts
    ]


if __name__ == "__main__":
    main()
