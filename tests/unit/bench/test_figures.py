"""What tables show: two digits, verdicts by interval, and the same again from raw data."""

from __future__ import annotations

import json

import pytest

from bench.figures import (
    Figure,
    Goal,
    Line,
    Row,
    Samples,
    Table,
    amount,
    pooled,
    quantile,
    render_rows,
    render_table,
    times,
    two,
)
from bench.intervals import Interval


def samples(*values: float) -> Samples:
    found = Samples()
    for value in values:
        found.add(value)
    return found


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0342, "0.034"), (2.77, "2.8"), (9.96, "10"), (27.384, "27"), (1104.3, "1,100"), (17637.9, "18,000"), (0, "0")],
)
def test_two_digits_count(value: float, text: str) -> None:
    assert two(value) == text


def test_short_times_are_milliseconds() -> None:
    assert amount(0.0342, "s") == "34 ms"
    assert amount(2.77, "s") == "2.8 s"
    assert amount(27, "") == "27"


@pytest.mark.parametrize(
    ("goal", "interval", "verdict"),
    [
        (Goal(1.0), Interval(0.8, 0.95), "✓"),
        (Goal(1.0), Interval(1.1, 1.3), "✗"),
        (Goal(1.0), Interval(0.9, 1.1), "~"),
        (Goal(1.0, at_least=True), Interval(1.1, 1.3), "✓"),
        (Goal(1.0, at_least=True), Interval(0.8, 0.95), "✗"),
        (Goal(1.0), None, "(✓)"),
        (Goal(0.5), None, "(✗)"),
    ],
)
def test_a_goal_is_met_when_the_whole_interval_is_on_its_side(
    goal: Goal, interval: Interval | None, verdict: str
) -> None:
    assert goal.verdict(0.9, interval) == verdict


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile([float(value) for value in range(1, 101)], 0.99) == 99
    assert quantile([1, 2, 3, 4], 0.5) == 2.5


def test_a_row_and_a_table_survive_the_raw_file() -> None:
    row = Row("pull", samples(1, 2, 3), samples(2, 4, 6), "peer", Goal(0.6), note="proxy")
    table = Table("cold", "Cold", [Figure("hello", "hello", "s")], [Line("a", "A", True, {"hello": samples(1, 2, 3)})])
    again = json.loads(json.dumps([row.data(), table.data()]))

    assert render_rows([Row.of(again[0])]) == render_rows([row])
    assert render_table(Table.of(again[1])) == render_table(table)


def test_a_row_shows_ratio_interval_and_peer() -> None:
    row = Row("pull", samples(1, 1, 1, 1, 1), samples(2, 2, 2, 2, 2), "containerd", Goal(0.6))

    assert render_rows([row]).splitlines()[-1] == (
        "| pull | 1.0 s | 2.0 s, containerd | 0.50× | 0.50–0.50 | ≤ 0.6× | ✓ |"
    )


def test_ratios_near_one_have_two_decimals() -> None:
    assert times(1.051) == "1.05"
    assert times(2.77) == "2.8"
    assert times(0.034) == "0.034"


def test_an_interval_around_one_is_no_difference() -> None:
    assert Row("start", samples(1, 2, 3, 4, 5), samples(1, 2, 3, 4, 6)).is_even
    assert not Row("start", samples(1, 1, 1, 1, 1), samples(2, 2, 2, 2, 2)).is_even


def test_a_machine_that_gets_slower_is_seen_although_nobody_has_five_turns() -> None:
    """Each of eight contenders has three turns; each turn of the machine is a tenth slower than the one before."""
    contenders = [Samples() for _ in range(8)]
    steady = [Samples() for _ in range(8)]
    for turn in range(3):
        for number in range(8):
            moment, level = float(8 * turn + number), 1.0 + number
            contenders[number].values.append(level * (1 + 0.01 * moment))
            contenders[number].moments.append(moment)
            steady[number].values.append(level * (1 + 0.05 * (-1) ** (turn + number)))
            steady[number].moments.append(moment)

    assert pooled(contenders).drifts
    assert not pooled(steady).drifts


def test_a_line_without_a_figure_shows_a_dash() -> None:
    columns = [Figure("hello", "hello", "s"), Figure("tree", "tree", "s"), Figure("find", "find", "s")]
    lines = [Line("a", "A", False, {"hello": samples(1)}), Line("b", "B", True, {"tree": samples(2)})]

    assert render_table(Table("cold", "Cold", columns, lines)).splitlines() == [
        "| | hello, s | tree, s | turns | synced |",
        "|---|---|---|---|---|",
        "| A | 1.0 | – | 1 | no |",
        "| B | – | 2.0 | 1 | yes |",
    ]
