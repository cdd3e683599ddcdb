"""When two runs say the same."""

from __future__ import annotations

from typing import Any

import pytest

from bench.agree import pairs, slower
from bench.figures import Figure, Line, Row, Samples, Table


def run(ours: list[float], peer: list[float], cells: list[float], speed: float = 1) -> dict[str, Any]:
    """Others take as long in every run; ``speed`` makes all of it slower."""
    row = Row("start", samples(ours), samples(peer), "peer")
    others = [Line(key, key, durable=True, figures={"hello": samples([2.0 * speed])}) for key in "bcd"]
    line = Line("a", "A", durable=True, figures={"hello": samples([cell * speed for cell in cells])})
    table = Table("cold", "Cold", (Figure("hello", "hello", "s"),), [line, *others])
    return {"rows": [row.data()], "tables": [table.data()]}


def samples(values: list[float]) -> Samples:
    return Samples(values, [0.0] * len(values), [0.0] * len(values))


STEADY = [1.0, 1.01, 1.02, 1.03, 1.04]


@pytest.mark.parametrize(
    ("second", "agreement"),
    [
        (run(STEADY, STEADY, [2.0, 2.1, 2.2]), [True, True]),
        (run([each * 1.1 for each in STEADY], STEADY, [2.3, 2.4, 2.5]), [True, True]),
        (run([each * 2 for each in STEADY], STEADY, [2.0, 2.1, 2.2]), [False, True]),
        (run(STEADY, STEADY, [3.0, 3.1, 3.2]), [True, False]),
    ],
    ids=["equal", "close", "another ratio", "another figure"],
)
def test_runs_agree(second: dict[str, Any], agreement: list[bool]) -> None:
    first = run(STEADY, STEADY, [2.0, 2.1, 2.2])

    assert [pair.agrees for pair in pairs(first, second)] == [*agreement, True, True, True]


def test_a_machine_that_is_slower_for_all_is_no_disagreement() -> None:
    first, second = run(STEADY, STEADY, [2.0]), run(STEADY, STEADY, [2.0], speed=1.5)

    assert slower(first, second) == 1.5
    assert all(pair.agrees for pair in pairs(first, second))
    assert not all(pair.agrees for pair in pairs(first, run(STEADY, STEADY, [3.0], speed=1.5)))


def test_what_one_run_has_not_is_left_out() -> None:
    first = run(STEADY, STEADY, [2.0])
    without_lines = [{**table, "lines": []} for table in first["tables"]]

    assert list(pairs(first, {"rows": [], "tables": []})) == []
    assert list(pairs(first, {"rows": [], "tables": without_lines})) == []
