"""containerd's filter language for lists of snapshots.

An example is ``name==a,labels."x.y"~=/^b/``: the selectors of a filter must all match, several filters are
alternatives. It follows the grammar in containerd's pkg/filters, quirks included: a bare value ends at a comma or a
space, ``/`` and ``|`` quote regular expressions, ``!=`` matches an absent field too. Pure: it must not do I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imagecache.errors import InvalidSnapshotArgument
from imagecache.snapshotter.snapshot import Info

_FIELD = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR = re.compile(r"[=!~]+")
_VALUE = re.compile(r"[^\s,]+")
_QUOTED = re.compile(r'(["/|])((?:(?!\1)[^\\\n]|\\.)*)\1')
_ESCAPE = re.compile(r"\\(?:([abfnrtv\\])|([0-7]{3})|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_LETTERS = dict(zip("abfnrtv\\", "\a\b\f\n\r\t\v\\", strict=True))
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Selector:
    """One condition. ``operator`` is ``==``, ``!=``, ``~=``, or empty for "is present"."""

    path: tuple[str, ...]
    operator: str
    value: str

    def matches(self, info: Info) -> bool:
        found = _field(info, self.path)
        match self.operator:
            case "":
                return found is not None
            case "==":
                return found == self.value
            case "!=":
                return (found or "") != self.value
            case _:
                return _searches(self.value, found or "")


Conjunction = tuple[Selector, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """Matches when any alternative does; without alternatives it matches everything."""

    alternatives: tuple[Conjunction, ...] = ()

    def matches(self, info: Info) -> bool:
        return not self.alternatives or any(
            all(selector.matches(info) for selector in conjunction) for conjunction in self.alternatives
        )

    def required(self, *path: str) -> str | None:
        """The only value of ``path`` with which an info can match, for a look-up in an index; None: there is none."""
        if len(self.alternatives) != 1:
            return None
        wanted = (s.value for s in self.alternatives[0] if s.operator == "==" and s.path == path)
        return next(wanted, None)


def parse(texts: Sequence[str]) -> Filter:
    """Raises InvalidSnapshotArgument with the position of the error. An empty text matches everything."""
    if not all(texts):
        return Filter()
    return Filter(tuple(_Parser(text).conjunction() for text in texts))


def _field(info: Info, path: tuple[str, ...]) -> str | None:
    fields: Mapping[str, str] = {"name": info.name, "parent": info.parent, "kind": info.kind.name.lower()}
    return info.labels.get(".".join(path[1:])) if path[0] == "labels" else fields.get(path[0])


def _searches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:  # as containerd, which logs it
        return False


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def conjunction(self) -> Conjunction:
        selectors = [self._selector()]
        while self._at < len(self._text):
            self._expect(",")
            selectors.append(self._selector())
        return tuple(selectors)

    def _selector(self) -> Selector:
        path = [self._name()]
        while self._next() == ".":
            self._at += 1
            path.append(self._name())
        if self._next() in {",", ""}:
            return Selector(tuple(path), "", "")
        self._take(_SPACE)
        operator = self._take(_OPERATOR)
        if operator not in {"==", "!=", "~="}:
            raise self._wrong("expected ==, != or ~=")
        return Selector(tuple(path), operator, self._value(regular=operator == "~="))

    def _name(self) -> str:
        quoted = self._quoted('"')
        name = self._take(_FIELD) if quoted is None else quoted
        if name is None:
            raise self._wrong("expected a field")
        return name

    def _value(self, *, regular: bool) -> str:
        self._take(_SPACE)
        quoted = self._quoted('"/|' if regular else '"')
        if quoted is not None:
            return quoted
        if self._next() in set('"/|=!~.'):
            raise self._wrong("expected a value")
        value = self._take(_VALUE)
        if value is None:
            raise self._wrong("expected a value")
        return value

    def _quoted(self, quotes: str) -> str | None:
        self._take(_SPACE)
        match = _QUOTED.match(self._text, self._at)
        if match is None or match[1] not in quotes:
            return None
        value = b"".join(self._unescaped(match[2], match[1]))
        self._at = match.end()
        return value.decode(errors="surrogateescape")

    def _unescaped(self, text: str, quote: str) -> list[bytes]:
        parts: list[bytes] = []
        end = 0
        for match in _ESCAPE.finditer(text):
            parts.extend((text[end : match.start()].encode(), self._escape(match, quote)))
            end = match.end()
        return [*parts, text[end:].encode()]

    def _escape(self, match: re.Match[str], quote: str) -> bytes:
        letter, octal, byte, short, long, other = match.groups()
        if letter:
            return _LETTERS[letter].encode()
        if octal or byte:
            number = int(octal, 8) if octal else int(byte, 16)
            return self._checked(number, 0xFF).to_bytes(1)
        if short or long:
            return chr(self._checked(int(short or long, 16), 0x10FFFF)).encode(errors="surrogatepass")
        if other != quote:
            raise self._wrong("illegal escape sequence")
        return quote.encode()

    def _checked(self, number: int, highest: int) -> int:
        if number > highest:
            raise self._wrong("illegal numeric escape sequence")
        return number

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self._text, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match[0]

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise self._wrong(f"expected {character}")
        self._at += 1

    def _wrong(self, what: str) -> InvalidSnapshotArgument:
        position = f"{self._text[: self._at]!r} >> {self._text[self._at :]!r}"
        return InvalidSnapshotArgument(f"filter {position}: {what}")
