"""Merge patches that replace a mapping."""

from __future__ import annotations

import pytest

from imagecache.kube import objects
from imagecache.kube.api import Object


@pytest.mark.parametrize(
    "before",
    [
        {},
        {"a": 1, "b": {"c": 2}},
        {"gone": 1, "b": {"gone": {"deep": 1}, "c": 1}, "list": [3]},
        {"b": "no mapping", "list": {"no": "list"}},
    ],
)
def test_a_patch_leaves_nothing_of_what_was_there(before: Object) -> None:
    after: Object = {"a": 1, "b": {"c": 2, "d": {}}, "list": [1]}

    assert objects.merge(before, objects.replacing(after, before)) == after
    assert objects.merge(before, objects.replacing(after, {"other": 1, "b": {"e": 1}}, before)) == after
