"""The table of attacks is complete: each row has a test that exists, each id is one row, and no id is without one."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[3]
TABLE = ROOT / "docs" / "attacks.md"
LAST = {"reg": 51, "bud": 39, "ver": 30, "own": 12, "ask": 6, "iso": 8, "nod": 18, "pod": 10, "sup": 7}
"""The last number of each kind: a row that somebody has removed shows."""
ID = re.compile(rf"\b(?:{'|'.join(LAST)})-[0-9]{{2}}\b")
TEST = re.compile(r"(tests/[\w/]+\.py)::((?:\w+::)*test_\w+)")
COLUMNS = ["id", "actor", "what is tried", "what happens", "test"]
FOLDERS = ("docs", "src", "tests", "testkit", "tools", "charts", "demo", "bench")


class Row(NamedTuple):
    id: str
    actor: str
    tried: str
    happens: str
    test: str


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows() -> list[Row]:
    """Of every table of the document that has these columns."""
    found, inside = [], False
    for line in TABLE.read_text().splitlines():
        if not line.startswith("|"):
            inside = False
        elif cells(line) == COLUMNS:
            inside = True
        elif inside and not set(line) <= set("|- :"):
            found.append(Row(*cells(line)))
    return found


ROWS = rows()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_is_whole(row: Row) -> None:
    assert ID.fullmatch(row.id)
    assert all(row)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_the_test_of_a_row_exists(row: Row) -> None:
    named = TEST.fullmatch(row.test.strip("`"))

    assert named, f"{row.test} is not `path::name`"
    path, name = ROOT / named[1], named[2]
    assert path.is_file(), named[1]
    assert name in names_in(path)


def names_in(path: Path) -> set[str]:
    """Names as pytest has them: those of a class with the class before."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}::{each.name}" for each in methods}
    return found


def test_an_id_is_one_row() -> None:
    ids = [row.id for row in ROWS]

    assert sorted(ids) == sorted(set(ids))


@pytest.mark.parametrize("prefix", LAST)
def test_ids_have_no_gap(prefix: str) -> None:
    numbers = sorted(int(row.id[-2:]) for row in ROWS if row.id.startswith(prefix))

    assert numbers == list(range(1, LAST[prefix] + 1))


def test_every_id_that_is_named_is_a_row() -> None:
    kinds = {".md", ".py", ".yaml"}
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    known = {row.id for row in ROWS}
    unknown = {
        f"{path.relative_to(ROOT)}: {each}"
        for path in (*files, *ROOT.glob("*.md"))
        for each in ID.findall(path.read_text(errors="replace"))
        if each not in known
    }

    assert unknown == set()
