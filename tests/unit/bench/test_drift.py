"""A machine that changes during a run is found, and one that does not is not."""

from __future__ import annotations

import json
import random

from bench.drift import Drift, drift
from bench.figures import Figure, Line, Measured, Row, Samples, Table

TURNS, CONTENDERS, FIGURES = 4, 7, 6


def run(seed: int, *, slower: float = 0.0, noise: float = 0.25) -> list[Measured]:
    """Contenders take turns; every turn of the machine is by ``slower`` slower than the one before."""
    source = random.Random(seed)
    columns = [Figure(str(number), f"figure {number}", "s") for number in range(FIGURES)]
    lines = [Line(str(number), f"contender {number}", False, {}) for number in range(CONTENDERS)]
    for turn in range(TURNS):
        for number, line in enumerate(lines):
            luck = 1 + source.gauss(0, noise)  # a slow turn shows in all figures of it
            for column in columns:
                samples = line.figures.setdefault(column.key, Samples())
                samples.values.append(
                    abs((1 + number) * luck * (1 + source.gauss(0, noise / 4)) * (1 + slower) ** turn)
                )
                samples.moments.append(float(turn * CONTENDERS + number))
                samples.loads.append(0.0)
    return [Measured(tables=[Table("t", "table", columns, lines)])]


def test_noise_is_no_drift() -> None:
    failed = [seed for seed in range(6) if drift(run(seed)).fails]

    assert len(failed) <= 1, failed


def test_noise_trends_in_some_figures_by_accident() -> None:
    assert any(drift(run(seed)).trending for seed in range(5))


def test_a_machine_that_gets_slower_fails_the_run() -> None:
    found = [drift(run(seed, slower=0.25, noise=0.05)) for seed in range(2)]

    assert all(each.fails for each in found)
    assert all(len(each.trending) > each.most for each in found)


def test_one_figure_that_changes_for_certain_fails_the_run_alone() -> None:
    rising = Samples([1 + turn / 10 for turn in range(12)], [float(turn) for turn in range(12)], [0.0] * 12)
    steady = Samples([1 + turn % 3 / 10 for turn in range(12)], [float(turn) for turn in range(12)], [0.0] * 12)

    found = drift([Measured(rows=[Row("start", rising, steady, "containerd")])])

    assert found.fails
    assert found.certain == ("start +48%", "start: imagecache +71%")
    assert "no order has start +48%; start: imagecache +71%" in found.text


def test_values_too_many_to_shuffle_are_judged_alone() -> None:
    count = 120
    moments, loads = [float(turn) for turn in range(count)], [0.0] * count
    level = Samples([1 + turn % 7 / 10 for turn in range(count)], moments, loads)
    rising = Samples([1 + turn / count for turn in range(count)], moments, loads)

    assert not drift([Measured(rows=[Row("pods", level)])]).fails
    assert drift([Measured(rows=[Row("pods", rising)])]).fails


def test_it_is_read_as_it_was_written() -> None:
    found = drift(run(1))

    assert Drift.of(json.loads(json.dumps(found.data()))) == found
    assert found == drift(run(1))
