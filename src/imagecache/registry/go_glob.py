"""Globs as Go's ``filepath.Match`` reads them: ``*``, ``?``, ``[a-z]``, ``[^a-z]``, and a backslash before any of them.

Source: Go 1.26 ``path/filepath`` (match.go), for names without slashes. Keys of pull secrets are globs, and who writes
one writes the name too, so the time is bounded by the product of both lengths. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CHARACTER = r"(?:\\.|[^\\\]-])"
_RANGE = re.compile(rf"({_CHARACTER})(?:-({_CHARACTER}))?", re.DOTALL)
_TERM = re.compile(
    rf"(?P<any>\*)|(?P<one>\?)|\[(?P<not>\^)?(?P<class>(?:{_RANGE.pattern})+)\]|(?P<literal>\\.|[^\\*?\[])", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class _Class:
    """Which characters one character may be."""

    ranges: tuple[tuple[str, str], ...] = ()
    negated: bool = False

    def __contains__(self, character: str) -> bool:
        return any(low <= character <= high for low, high in self.ranges) is not self.negated


_ANY_ONE = _Class(negated=True)


def matches(pattern: str, name: str) -> bool:
    """Whether the whole name matches. A pattern with a mistake matches nothing."""
    terms = _terms(pattern)
    if terms is None:
        return False
    ends = {0}  # of what the terms so far can cover
    for term in terms:
        if term is None:
            ends = set(range(min(ends), len(name) + 1))
        else:
            ends = {end + 1 for end in ends if end < len(name) and name[end] in term}
        if not ends:
            return False
    return len(name) in ends


def _terms(pattern: str) -> list[_Class | None] | None:
    """The pattern's parts, with None for ``*``; None for a pattern with a mistake."""
    terms: list[_Class | None] = []
    position = 0
    while position < len(pattern):
        match = _TERM.match(pattern, position)
        if match is None:
            return None
        terms.append(_term(match))
        position = match.end()
    return terms


def _term(match: re.Match[str]) -> _Class | None:
    if match["any"]:
        return None
    if match["one"]:
        return _ANY_ONE
    if match["literal"]:
        return _Class(((match["literal"][-1], match["literal"][-1]),))
    ranges = ((low[-1], (high or low)[-1]) for low, high in _RANGE.findall(match["class"]))
    return _Class(tuple(ranges), negated=match["not"] is not None)
