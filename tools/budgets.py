"""Sizes that the standards allow: files of at most 500 lines, functions of at most 60. ``./dev test`` calls it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 500
FUNCTION_LINES = 60
FOLDERS = ("src", "testkit", "tests", "demo", "bench", "tools")
GENERATED = "_proto"


def findings(path: Path) -> Iterator[str]:
    text = path.read_text()
    lines = text.count("\n")
    if lines > FILE_LINES:
        yield f"{path}:1: {lines} lines, {FILE_LINES} are allowed"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, {FUNCTION_LINES} are allowed"


def main() -> int:
    paths = [path for folder in FOLDERS for path in sorted(Path(folder).rglob("*.py")) if GENERATED not in path.parts]
    found = [line for path in paths for line in findings(path)]
    print("\n".join(found), end="\n" if found else "")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
