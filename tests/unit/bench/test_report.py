"""README.md and docs/benchmarks.md say what the newest whole run says, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import plot, report

RESULTS = report.ROOT / "bench" / "results"


@pytest.fixture(scope="module")
def newest() -> dict[str, Any]:
    """The newest run that was not a quick one; there is one."""
    runs = (json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"), reverse=True))
    return next(run for run in runs if not run["quick"])


@pytest.mark.parametrize("path", report.DOCUMENTS, ids=lambda path: path.name)
def test_a_document_has_the_tables_of_the_newest_run(path: Path, newest: dict[str, Any]) -> None:
    text = path.read_text()

    assert "<!-- bench: " in text
    assert report.written(text, dict(report.sections(newest))) == text


def test_every_table_of_the_run_is_in_the_documents(newest: dict[str, Any]) -> None:
    text = "".join(path.read_text() for path in report.DOCUMENTS)

    assert [name for name, _ in report.sections(newest) if f"<!-- bench: {name}," not in text] == []


def test_the_pictures_are_drawn_from_the_newest_run(newest: dict[str, Any], tmp_path: Path) -> None:
    drawn = list(plot.draw(newest, tmp_path))

    text = "".join(path.read_text() for path in report.DOCUMENTS)
    assert {path.name for path in drawn} == set(re.findall(r"images/([a-z]+\.png)", text))
    for path in drawn:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert int.from_bytes(data[16:20]) > 1000


def test_only_marked_parts_change() -> None:
    text = "before\n<!-- bench: rows, by bench/report.py -->\nold\n<!-- end -->\nafter\n"

    assert report.written(text, {"rows": "new"}) == text.replace("old", "new")
