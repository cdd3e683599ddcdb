"""Label selectors, and the status of a NodeImageCache."""

from __future__ import annotations

import pytest

from imagecache.api import selector
from imagecache.api.nodes import CacheState, NodeCache, NodeStatus, also_unpack, notes, parse_status, priority
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
        ("\u00a0pool=gpu,\u00a0zone in (a\u3000, b)\u200b", True),
        ("zone in (\u200ba)", True),
        ("gone notin (b)", True),
        ("gone in (b)", False),
        ("kubernetes.io/os=linux", True),
        ("empty=", True),
        ("pool=", False),
    ],
)
def test_a_selector_matches_as_in_kubernetes(text: str, matches: bool) -> None:
    assert selector.parse(text, "annotation").matches(LABELS) is matches


@pytest.mark.parametrize(
    "text",
    [
        "=",
        "pool=gpu,",
        ",pool",
        "pool gpu",
        "pool in gpu",
        "pool>1",
        "a=b c=d",
        "ä=b",
        "a in (b c)",
        "a in (b,\u200bc\u00adx)",
    ],
)
def test_nonsense_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InvalidManifest, match=r"^annotation: .* is not a label selector(: it contains .*)?$"):
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
        ({"imagecache.dev/elimination-strategy": "lru", "imagecache.dev/refresh": "x"}, []),
        (
            {"imagecache.dev/elimination-strategy": "FIFO"},
            ["metadata.annotations[imagecache.dev/elimination-strategy]: 'FIFO' is not LRU, ignored"],
        ),
        ({"imagecache.dev/direct-io": "\u00a0true\u200b", "imagecache.dev/priority": "\u00a0-7 "}, []),
        (
            {"imagecache.dev/priority": "1\u00a07"},
            [
                (
                    "metadata.annotations[imagecache.dev/priority]: '1\\xa07' is not a whole number, ignored: "
                    "it contains U+00A0 (NO-BREAK SPACE) after '1'"
                )
            ],
        ),
    ],
)
def test_annotations_of_ours_without_effect_are_noted(annotations: dict[str, str], noted: list[str]) -> None:
    found = notes(annotations)
    assert len(found) == len(noted)
    assert all(each.startswith(text) for each, text in zip(found, noted, strict=True))


@pytest.mark.parametrize(("text", "found"), [("7", 7), ("\u00a0-7 ", -7), ("+3", 3), ("", 0), ("much", 0), ("1.5", 0)])
def test_a_priority_that_is_none_is_0(text: str, found: int) -> None:
    assert priority({"imagecache.dev/priority": text}) == found


def test_snapshotters_are_listed_without_what_is_around_them() -> None:
    assert also_unpack({"imagecache.dev/also-unpack": "\u00a0devmapper\u200b,, overlayfs ,"}) == (
        "devmapper",
        "overlayfs",
    )


def test_a_character_in_a_selector_that_nobody_sees_is_named() -> None:
    with pytest.raises(InvalidManifest, match=r"it contains U\+200B \(ZERO WIDTH SPACE\) after 'pool=gp'"):
        selector.parse("pool=gp\u200bu", "annotation")
