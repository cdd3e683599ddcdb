"""Globs: what Go's filepath.Match makes of them, each asked of Go 1.26."""

from __future__ import annotations

import pytest

from imagecache.registry.go_glob import matches


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("", "", True),
        ("", "a", False),
        ("*", "", True),
        ("*", "abc", True),
        ("**a", "ba", True),
        ("a*c*", "abcd", True),
        ("a*c", "abcd", False),
        ("?", "\u00fc", True),
        ("?", "", False),
        ("[rs]", "r", True),
        ("[rs]", "x", False),
        ("[a-cx]", "b", True),
        ("[^r]", "s", True),
        ("[^r]", "r", False),
        ("[^^]", "a", True),
        ("[!r]", "!", True),
        ("[!r]", "r", True),
        ("[!r]", "s", False),
        ("[z-a]", "b", False),
        ("[^z-a]", "b", True),
        ("[*]", "*", True),
        ("[*]", "a", False),
        ("[[]*]", "[x]", True),
        ("[\\]]", "]", True),
        ("[a\\-z]", "-", True),
        ("[a\\-z]", "b", False),
        ("\\*", "*", True),
        ("\\*", "a", False),
        ("a]", "a]", True),
        ("[]a]", "a", False),
        ("[a-]", "a", False),
        ("[-a]", "a", False),
        ("[a-c-e]", "b", False),
        ("[^]", "a", False),
        ("[]", "a", False),
        ("[a", "a", False),
        ("[\\]", "a", False),
        ("a\\", "a", False),
    ],
)
def test_what_go_matches(pattern: str, name: str, *, expected: bool) -> None:
    assert matches(pattern, name) is expected


@pytest.mark.timeout(10)
def test_many_stars_take_no_time() -> None:
    assert not matches("*a" * 500 + "b", "a" * 1000)
