"""The start-up taint: which taints are left, and when ours is removed."""

from __future__ import annotations

import datetime as dt

import pytest

from imagecache.agent import taint
from imagecache.api.yamltext import JSON

ID = "imc-" + "a" * 20
NOW = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("taints", "left"),
    [
        (None, None),
        ([], None),
        ([{"key": "other", "effect": "NoSchedule"}], None),
        ([{"key": "imagecache.dev/not-ready", "effect": "NoSchedule"}], []),
        ([{"key": "other"}, {"key": "imagecache.dev/not-ready"}], [{"key": "other"}]),
        ("nonsense", None),
    ],
)
def test_taints_without_ours(taints: JSON, left: JSON) -> None:
    assert taint.without(taints) == left


@pytest.mark.parametrize(
    ("usable", "waited", "timeout", "due"),
    [
        ([], 0, 300, True),
        ([True, True], 0, 300, True),
        ([True, False], 299, 300, False),
        ([True, False], 300, 300, True),
        ([False], 1e9, 0, False),
    ],
)
def test_when_the_taint_is_due(usable: list[bool], waited: float, timeout: float, due: bool) -> None:
    assert taint.is_due(usable, waited, timeout) is due
