"""Label selectors, and the status of a NodeImageCache."""

from __future__ import annotations

import pytest

from imagecache.api import selector
from imagecache.api.nodes import CacheState, NodeCache, NodeStatus, notes, parse_status
from imagecache.errors import InvalidManifest

LABELS = {"pool": "gpu", "zone": "a", "kubernetes.io/os": "linux", "empty": ""}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("  ", True),
        ("pool", True),
        ("pools", False),
        ("!pool", False),
        ("! gone", True),
        ("pool=gpu", True),
        ("pool==gpu", True),
        ("pool = gpu , zone=a", True),
        ("pool=gpu,zone=b", False),
        ("pool!=gpu", False),
        ("pool!=cpu", True),
        ("gone!=cpu", True),
        ("zone in (a,b)", True),
        ("zone in (b, c)", False),
        ("zone notin (b, c)", True),
        ("gone notin (b)", True),
        ("gone in (b)", False),
        ("kubernetes.io/os=linux", True),
        ("empty=", True),
        ("pool=", False),
    ],
)
def test_a_selector_matches_as_in_kubernetes(text: str, matches: bool) -> None:
    assert selector.parse(text, "annotation").matches(LABELS) is matches


@pytest.mark.parametrize("text", ["=", "pool=gpu,", ",pool", "pool gpu", "pool in gpu", "pool>1", "a=b c=d", "ä=b"])
def test_nonsense_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InvalidManifest, match=r"^annotation: .* is not a label selector$"):
        selector.parse(text, "annotation")


def test_a_status_is_read_as_far_as_we_know_it() -> None:
    known = {"mode": "proxy", "caches": [{"name": "a", "id": "imc-1", "state": "Ready", "new": 1}], "later": {}}

    assert parse_status(known) == NodeStatus(
        mode="proxy", caches=(NodeCache(name="a", id="imc-1", state=CacheState.READY),)
    )
    assert parse_status(None) == NodeStatus()
    assert parse_status({"caches": [{"name": "a", "id": "imc-1", "state": "Melted"}]}) == NodeStatus()


@pytest.mark.parametrize(
    ("annotations", "noted"),
    [
        ({"imagecache.dev/direct-io": "true", "imagecache.dev/priority": "1", "example.com/direct-io": "x"}, []),
        ({"imagecache.dev/direct-io": "True"}, ["metadata.annotations[imagecache.dev/direct-io]: 'True' is neither"]),
        ({"imagecache.dev/directio": "true"}, ["metadata.annotations[imagecache.dev/directio]: unknown, ignored"]),
    ],
)
def test_annotations_of_ours_without_effect_are_noted(annotations: dict[str, str], noted: list[str]) -> None:
    found = notes(annotations)
    assert len(found) == len(noted)
    assert all(each.startswith(text) for each, text in zip(found, noted, strict=True))
