"""Durations: what Go's time.ParseDuration makes of them, each asked of Go 1.26."""

from __future__ import annotations

import pytest

from imagecache.registry.go_duration import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h", 3600),
        ("1m30s", 90),
        ("1.5s", 1.5),
        ("50000us", 0.05),
        ("1\u00b5s", 1e-6),
        ("1\u03bcs", 1e-6),
        ("10ns", 1e-8),
        ("500ms", 0.5),
        (".5s", 0.5),
        ("1.s", 1),
        ("+5s", 5),
        ("-1s", -1),
        ("0", 0),
        ("-0", 0),
        ("0s", 0),
        ("2562047h47m16.854775807s", 9223372036.854775807),
    ],
)
def test_what_go_reads(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "00",
        "soon",
        "s",
        "-",
        ".s",
        "1d",
        "1S",
        " 1s",
        "1s ",
        "1s\n",
        "1h-1m",
        "1s1",
        "1e3s",
        "1_0s",
        "\u0661s",
    ],
)
def test_what_go_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration like 1m30s"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["2562047h47m16.854775808s", "9999999h", "9" * 5000 + "s"])
def test_what_is_too_long_for_go(text: str) -> None:
    with pytest.raises(ValueError, match="more than Go's longest"):
        parse_duration(text)
