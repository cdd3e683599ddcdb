"""The table of kubectl, to the character."""

from __future__ import annotations

import datetime as dt

import pytest

from imagecache.api import columns
from imagecache.api.types import API_VERSION, KIND, ImageCache, Metadata, NodeCounts, Phase, Spec, Status

MINUTE, HOUR, DAY, YEAR = 60, 3600, 86400, 365 * 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [  # the table of apimachinery's duration_test.go, and every border of HumanDuration
        (-2, "<invalid>"),
        (-1.9, "0s"),
        (-1, "0s"),
        (0, "0s"),
        (1, "1s"),
        (70, "70s"),
        (119.9, "119s"),
        (120, "2m"),
        (190, "3m10s"),
        (10 * MINUTE - 1, "9m59s"),
        (10 * MINUTE, "10m"),
        (47 * MINUTE, "47m"),
        (3 * HOUR - 1, "179m"),
        (3 * HOUR, "3h"),
        (3 * HOUR + 10 * MINUTE, "3h10m"),
        (8 * HOUR - 1, "7h59m"),
        (8 * HOUR, "8h"),
        (48 * HOUR - 1, "47h"),
        (48 * HOUR, "2d"),
        (2 * DAY + HOUR, "2d1h"),
        (8 * DAY - 1, "7d23h"),
        (8 * DAY, "8d"),
        (2 * YEAR - 1, "729d"),
        (2 * YEAR, "2y"),
        (2 * YEAR + DAY, "2y1d"),
        (8 * YEAR - 1, "7y364d"),
        (8 * YEAR, "8y"),
    ],
)
def test_age(seconds: float, text: str) -> None:
    assert columns.age(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0KiB"),
        (245 * 2**20, "245MiB"),
        (3 * 2**30 // 2, "1.5GiB"),
        (2**52, "4096TiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert columns.size(count) == text


def test_counts() -> None:
    assert [columns.count(number, "layer") for number in (0, 1, 2)] == ["0 layers", "1 layer", "2 layers"]


NOW = dt.datetime(2024, 1, 23, 6, 0, 0, tzinfo=dt.UTC)


def cache(name: str, status: Status | None, created: str = "2024-01-23T05:54:30Z") -> ImageCache:
    return ImageCache(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name=name, creation_timestamp=created),
        spec=Spec(images=("nginx",)),
        status=status,
    )


READY = Status(
    phase=Phase.READY,
    progress="100%",
    image_cache_id="imc-6we5ooph73mvgk9hnfdp",
    size=245 * 2**20,
    nodes=NodeCounts(desired=1, ready=1),
)


def test_table_is_kubectls() -> None:
    rows = [columns.row(cache("demo-cache", READY), NOW), columns.row(cache("new", None), NOW)]

    assert columns.Table(columns.COLUMNS).lines(rows) == [
        "NAME         AGE     CACHEID                    PHASE   PROGRESS",
        "demo-cache   5m30s   imc-6we5ooph73mvgk9hnfdp   Ready   100%",
        "new          5m30s                                      ",
    ]


def test_wide_adds_nodes_size_and_reason() -> None:
    failed = Status(phase=Phase.FAILED, progress="5%", image_cache_id="imc-0", reason="ImageNotFound: no such tag")
    rows = [
        columns.row(cache("a", READY), NOW, wide=True),
        columns.row(cache("b", failed, created=""), NOW, wide=True),
        columns.row(cache("c", None), NOW, wide=True),
    ]

    assert columns.WIDE_COLUMNS == ("NAME", "AGE", "CACHEID", "PHASE", "PROGRESS", "NODES", "SIZE", "REASON")
    assert rows[0][5:] == ("1/1", "245MiB", "")
    assert rows[1][1:] == ("<unknown>", "imc-0", "Failed", "5%", "", "", "ImageNotFound: no such tag")
    assert rows[2][5:] == ("", "", "")


def test_a_watch_stays_in_columns() -> None:
    table = columns.Table(("NAME", "AGE", "X"))
    first = table.lines([("a-long-name", "5s", "x")])
    second = table.lines([("b", "7s", "y")], header=False)

    assert first == ["NAME          AGE   X", "a-long-name   5s    x"]
    assert second == ["b             7s    y"]
