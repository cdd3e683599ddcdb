"""The generated references say what the code says, and every name that a user meets is in them."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imagecache.api
from imagecache import errors
from imagecache.api import annotations as known
from imagecache.api import crd, nodes
from imagecache.api.nodes import CacheState
from imagecache.api.types import Phase
from imagecache.match import events, keys
from imagecache.telemetry.metrics import Metrics
from tools import reference

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "src" / "imagecache"
WORD = re.compile(r"(?:[A-Z][a-z]+)+")
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
PODS = (ROOT / "docs" / "pods.md").read_text()
NAMES = set(re.findall(r"`([^`]+)`", REFERENCE))
NOT_NAMES = {"True", "False", "Unknown", "Normal", "Warning", "List", "ImageCache", "NodeImageCache", "Object"}
"""Words of the source that look like a condition or a reason and are none."""


def test_the_generated_documents_are_current() -> None:
    result = subprocess.run(
        [sys.executable, "tools/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert (result.returncode, result.stderr) == (0, "")


def test_every_field_has_a_meaning() -> None:
    rows = [line for line in REFERENCE.splitlines() if line.startswith(("| `spec", "| `status"))]

    assert len(rows) > 60
    assert [row for row in rows if row.endswith("|  |")] == []
    for definition in crd.all_documents().values():
        assert list(_properties(definition)) != []
        assert set(_properties(definition)) <= {part.removesuffix("[]") for name in NAMES for part in name.split(".")}


def _properties(value: object) -> Iterator[str]:
    """Every name of a field in a schema."""
    if isinstance(value, dict):
        for key, child in value.items():
            if key == "properties":
                yield from set(child) - {"spec", "status"}
            yield from _properties(child)
    elif isinstance(value, list):
        for child in value:
            yield from _properties(child)


def test_every_annotation_mark_phase_and_state_is_described() -> None:
    found = {
        value
        for module in pkgutil.iter_modules(imagecache.api.__path__, "imagecache.api.")
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, str) and value.startswith((known.PREFIX, f"{nodes.GROUP}/"))
    } - {known.PREFIX, nodes.API_VERSION}

    assert found == {*reference.ECI_ANNOTATIONS, *reference.OUR_ANNOTATIONS, *reference.MARKS}
    assert set(reference.ECI_ANNOTATIONS) == known.PORTABLE
    assert {key.removeprefix(known.PREFIX) for key in known.CLOUD_ONLY} <= NAMES
    assert set(reference.PHASES) == set(Phase)
    assert set(reference.STATES) == set(CacheState)


def test_everything_on_a_pod_is_described() -> None:
    found = {value for name, value in vars(keys).items() if name[0].isupper() and isinstance(value, str)}
    told = {value for name, value in vars(events).items() if name[0].isupper() and isinstance(value, str)}

    described = {*reference.POD_ANNOTATIONS, *reference.POD_MARKS}
    assert found - {keys.OURS, known.PREFIX} == described - {known.PLAIN_HTTP, known.INSECURE}
    assert told == {row[0].strip("`") for row in reference.POD_EVENTS}
    assert {name for name in described | told if f"`{name}`" not in PODS} == set()


def test_every_condition_and_reason_of_the_source_is_there() -> None:
    """Whatever looks like one: a word in capitals in the packages that write the objects' status."""
    missing = {
        f"{path.relative_to(ROOT)}: {word}"
        for package in ("api", "agent", "controller")
        for path in (SOURCE / package).rglob("*.py")
        if path.name != "crd.py"  # it has names of columns
        for word in _words(ast.parse(path.read_text()))
        if word not in NAMES | NOT_NAMES
    }

    assert missing == set()


def test_every_reason_of_an_event_is_there() -> None:
    """Wherever an event is made: the reason is the first argument."""
    found = {
        argument.value
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and node.args
        for argument in node.args[:1]
        if isinstance(argument, ast.Constant) and _is_word(argument.value) and _called(node) in EVENT_CALLS
    }
    table = REFERENCE.partition("\n## Events\n")[2].partition("\n## ")[0]

    assert len(found) > 6
    assert found <= set(re.findall(r"`([^`]+)`", table))


EVENT_CALLS = {"event", "record", "emit", "tell", "report"}


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and _is_word(node.value):
            yield str(node.value)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and WORD.fullmatch(value) is not None


def test_every_error_is_there() -> None:
    assert {kind.__name__ for kind in reference.error_classes()} <= NAMES
    assert errors.InternalError in reference.error_classes()


def test_every_metric_is_there() -> None:
    families = {family.name for family in Metrics().registry.collect() if family.name.startswith("imagecache_")}

    assert families <= {name.removesuffix("_total") for name in NAMES}
