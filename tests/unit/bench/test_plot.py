"""The README's picture can be drawn from what a run of everything writes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bench import plot

RESULTS = Path(__file__).resolve().parents[3] / "bench" / "results"


@pytest.fixture(scope="module")
def newest() -> dict[str, Any]:
    """The newest run that measured everything."""
    runs = (json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"), reverse=True))
    return next(run for run in runs if plot.is_complete(run))


def test_the_picture_is_drawn_from_the_newest_results(newest: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "images" / "picture.png"

    plot.draw(newest, output)

    data = output.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    assert width > 2 * height > 1000


def test_every_bar_is_in_seconds(newest: dict[str, Any]) -> None:
    rows = {(row["measure"], row["note"]): row for row in newest["rows"]}
    bars = [bar for bars in plot.PANELS.values() for bar in bars]

    assert all(rows[bar.measure, bar.note]["unit"] == "s" for bar in bars)


def test_a_run_of_some_parts_is_not_complete(newest: dict[str, Any], tmp_path: Path) -> None:
    part = copy.deepcopy(newest)
    part["rows"] = [row for row in part["rows"] if not row["measure"].startswith("kubectl create")]

    assert not plot.is_complete(part)
    with pytest.raises(KeyError, match="kubectl create"):
        plot.draw(part, tmp_path / "picture.png")
