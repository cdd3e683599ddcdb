"""``docs/field-log.md`` names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
LOG = (TESTS.parent / "docs" / "field-log.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(test_\w+)::(test_\w+)`", LOG)))


def test_every_row_of_what_was_tried_names_a_test() -> None:
    tables = LOG.split("| what | outcome | test |\n|---|---|---|\n")[1:]
    rows = [row for table in tables for row in table.partition("\n\n")[0].splitlines()]

    assert len(tables) > 1
    assert len(rows) > 30
    assert [row for row in rows if "::test_" not in row] == []


def test_the_named_tests_exist() -> None:
    missing = []
    for module, name in NAMED:
        texts = [path.read_text(encoding="utf-8") for path in TESTS.rglob(f"{module}.py")]
        if not any(f"def {name}(" in text for text in texts):
            missing.append(f"{module}::{name}")

    assert missing == []
