"""``docs/field-log.md`` names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
LOG = (TESTS.parent / "docs" / "field-log.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(test_\w+)::(test_\w+)`", LOG)))
SECTIONS = ["Tried", *re.findall(r"^## (Reports: .+)$", LOG, re.MULTILINE)]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_row_names_a_test(section: str) -> None:
    text = LOG.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]

    assert len(rows) >= 5
    assert [row for row in rows if "::test_" not in row] == []


def test_the_named_tests_exist() -> None:
    missing = []
    for module, name in NAMED:
        texts = [path.read_text(encoding="utf-8") for path in TESTS.rglob(f"{module}.py")]
        if not any(f"def {name}(" in text for text in texts):
            missing.append(f"{module}::{name}")

    assert missing == []
