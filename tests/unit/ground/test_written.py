"""Text as people write it: what is around a name is not part of it, what is inside is named."""

from __future__ import annotations

import pytest

from imagecache.written import LONGEST, explained, listed, printable, refusal, strange, trimmed

AROUND = ["", " ", "\t", "\r\n", "\x0b", "\x1f", "\x85", "\u00a0", "\u1680", "\u2009", "\u2028", "\u202f", "\u3000"]
UNSEEN = ["\u00ad", "\u200b", "\u200c", "\u200e", "\u2060", "\ufeff"]


@pytest.mark.parametrize("around", [*AROUND, *UNSEEN, "".join([*AROUND, *UNSEEN])])
def test_what_is_around_is_not_part_of_it(around: str) -> None:
    assert trimmed(f"{around}nginx:1.25{around}") == "nginx:1.25"
    assert trimmed(around) == ""
    assert listed(f"{around}a{around},{around}, b c{around},") == ("a", "b c")


@pytest.mark.parametrize("inside", [*UNSEEN, "\x00", "\u0661", "a b", "\ud800"])
def test_what_is_inside_stays(inside: str) -> None:
    assert trimmed(f" x{inside}x ") == f"x{inside}x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nginx:1.25", ""),
        ("", ""),
        ("nginx: 1.25", "it contains U+0020 (SPACE) after 'nginx:'"),
        ("nginx\u00a0:1.25", "it contains U+00A0 (NO-BREAK SPACE) after 'nginx'"),
        ("ngin\u200bx", "it contains U+200B (ZERO WIDTH SPACE) after 'ngin'"),
        ("\u0441entos", "it contains U+0441 (CYRILLIC SMALL LETTER ES)"),
        ("a\uff0cb", "it contains U+FF0C (FULLWIDTH COMMA) after 'a'"),
        ("a\x00", "it contains U+0000 (a character without a name) after 'a'"),
        ("a\ud800", "it contains U+D800 (a character without a name) after 'a'"),
        ("x" * 90 + "\u2013", f"it contains U+2013 (EN DASH) after '{'x' * 40}'"),
    ],
)
def test_a_character_that_nobody_sees_is_named(text: str, message: str) -> None:
    assert strange(text) == message
    assert refusal("no", text) == (f"no: {message}" if message else "no")


def test_blanks_may_be_allowed() -> None:
    assert strange("a in (b, c)", blanks=True) == ""
    assert strange("a in\t(b)", blanks=True) == "it contains U+0009 (a character without a name) after 'a in'"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("café, 图像, \U0001f600", "café, 图像, \U0001f600"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("user\u202etxt.exe", "user\\u202etxt.exe"),
        ("a\u2066b\u2069", "a\\u2066b\\u2069"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("a\u2028b", "a\\u2028b"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["x" * 41, "\x1b" * 30, "x" * 39 + "\x1b", "\U000e0041" * 10**6])
def test_what_is_too_long_is_cut(text: str) -> None:
    shown = printable(text, 40)

    assert len(shown) == 40
    assert shown.endswith("…")
    assert printable(shown, 40) == shown
    assert printable("x" * 40, 40) == "x" * 40


def test_a_long_message_leaves_the_hint() -> None:
    assert explained("no room", "free some") == "no room; free some"
    assert explained("no room", "") == "no room"
    shown = explained("x" * 10_000, "free some")
    assert shown.endswith("…; free some")
    assert len(shown) == len(explained("x" * 10_000, "y" * 10_000)) == LONGEST
