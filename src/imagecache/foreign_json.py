"""JSON that others wrote, read as Go's ``encoding/json`` reads it.

Images, registries, docker, kubectl and credential helpers exchange what Go programs write and read. So ``null`` means
absent, a key may be in another case (an exact one of the same object is not preferred to a later inexact one), halves
of surrogate pairs and bytes that are no UTF-8 become U+FFFD, and unknown keys are ignored. A wrong type is an error
there and here. Two readers of one document may take different values of a key that is repeated (Go merges them), which
is what CVE-2021-41190 is about: with ``conflicts`` such a document is refused, else the last value counts.

Documents of our own are not for this module: msgspec decodes them strictly. It must not read anything whose length its
caller has not bounded. Source: Go 1.26 ``encoding/json`` (``Unmarshal``; decode.go, ``object``, ``array``; fold.go).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from imagecache.errors import MalformedDocument
from imagecache.limits import DEFAULT

_T = TypeVar("_T")
Hook = Callable[[type, Any], Any]
"""``dec_hook`` of msgspec."""

_KEY = re.compile(rb'"[ \t\r\n]*:')
"""Matches the end of every key, and sometimes the inside of a text: never fewer than there are keys."""
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_HALF = re.compile("[\ud800-\udfff]")
_MARK = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
"""A whole text, or a bracket outside of one."""
_DEEPEST = 10_000
"""Levels of arrays and objects that Go reads (scanner.go, maxNestingDepth)."""
_PIECE = 200
"""Levels that are read in one go: no type of ours has as many, and Python's parser stops at some 1,000."""
_ODD = object()
_ABSENT = object()
_INT64 = 19
"""Digits of the largest 64-bit integer. Longer numbers are not worth Python's time for them."""


class _Object(tuple[tuple[str, Any], ...]):
    """An object with every key that it has, in order, repeated ones too."""

    __slots__ = ()


def decode(
    data: bytes,
    kind: type[_T],
    *,
    hook: Hook | None = None,
    conflicts: bool = True,
    values: int = DEFAULT.json_values,
) -> _T:
    """The document ``data`` as a ``kind``, a type of msgspec's.

    Args:
        data: of bounded length.
        kind: fields that are ``null`` or missing get its defaults; the value of one of type ``Any`` is kept, as Go's
            ``RawMessage`` is, ``null`` too.
        hook: for types that msgspec does not know.
        conflicts: refuse a field that occurs twice with different values.
        values: that the document may have.

    Raises:
        MalformedDocument: also for a document with too many values. Its message shows no text of the document but for
            the names of ``kind``'s fields.
        ImageCacheError: what ``hook`` raises.
    """
    _check_values(data, values)
    value = _plain(data, kind)
    if value is _ODD:
        value = _parsed(data)
    else:
        with contextlib.suppress(msgspec.ValidationError):  # null, mostly
            return msgspec.convert(value, kind, dec_hook=hook)
    return read(value, kind, hook=hook, conflicts=conflicts)


def read(value: object, kind: type[_T], *, hook: Hook | None = None, conflicts: bool = True) -> _T:
    """As ``decode``, of a value that ``decode`` has put into a field of type ``Any``."""
    try:
        plain: type = kind  # mypy takes no type[_T] for hashable
        known = _as_go(value, _type(plain), conflicts=conflicts)
        return msgspec.convert(known, kind, dec_hook=hook)
    except msgspec.ValidationError as error:
        raise MalformedDocument(str(error)) from error


def whole(value: Any) -> Any:
    """A tree of JSON values with U+FFFD for halves of surrogate pairs, so that it can be written as UTF-8."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {whole(key): whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [whole(item) for item in value]
    return value


def first(data: bytes) -> bytes:
    """Of a stream of objects and arrays the first, as Go's ``json.Decoder`` reads it; all bytes when it has no end."""
    text = data.decode(errors="surrogateescape")
    depth = 0
    for mark in _MARK.finditer(text):
        sign = mark[0]
        depth += (sign in "[{") - (sign in "]}")
        if depth <= 0 and sign in "]}":
            return text[: mark.end()].encode(errors="surrogateescape")
    return data


def is_object(data: bytes) -> bool:
    """Whether the text is JSON, and an object."""
    try:
        _check_values(data, DEFAULT.json_values)
        return isinstance(_parsed(data), _Object)
    except MalformedDocument:
        return False


def _check_values(data: bytes, most: int) -> None:
    """By the text, before anything is made of it. Raises MalformedDocument."""
    if _separators(data) > most and _separators(_STRING.sub(b"", data)) > most:
        raise MalformedDocument(
            f"the document has more than json_values, {most}, values",
            hint="no document that a builder made has so many; check where it comes from",
        )


def _separators(data: bytes) -> int:
    """At least as many as there are values behind the first: each follows a comma, or opens its array or object."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def _plain(data: bytes, kind: type) -> Any:
    """The value as msgspec reads it, several times faster, when Go reads the same; ``_ODD`` when it may not.

    That is so when no key is repeated (a dict then has as many as the text) and none differs from one of ours in case
    alone.
    """
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _ODD
    keys = _keys(value)
    if len(keys) != len(_KEY.findall(data)):
        return _ODD
    exact, folded = _spellings(kind)
    if any(_folded(key) in folded for key in set(keys) - exact):
        return _ODD
    return value


def _keys(value: object) -> list[str]:
    """Every key in a tree of dicts and lists. Without recursion: it may be deep."""
    found: list[str] = []
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            found += each
            pending += each.values()
        elif isinstance(each, list):
            pending += each
    return found


def _parsed(data: bytes) -> object:
    """Any JSON, with ``_Object`` for its objects. Raises MalformedDocument."""
    text = data.decode(errors="replace")
    try:
        try:
            return _loaded(text)
        except RecursionError:
            return _loaded(_shallow(text))
    except (ValueError, RecursionError) as error:
        problem = str(error)[:160]
    raise MalformedDocument(f"not JSON: {problem}")  # not chained: json's error holds the whole text, secrets too


def _loaded(text: str) -> object:
    return json.loads(text, object_pairs_hook=_Object, parse_int=_number, parse_constant=_refuse_constant)


def _shallow(text: str) -> str:
    """The JSON text with numbers for what is so deep in it that nobody looks there. Raises ValueError.

    Each part that is taken away has been parsed, with such numbers for those within, and another part has another
    number. It has neither quotes nor backslashes, so it cannot end a text that is open, and blanks around it, so it
    cannot become a part of its neighbour.
    """
    parts: list[list[str]] = [[]]
    depth = begin = 0
    for mark in _MARK.finditer(text):
        at, sign = mark.start(), text[mark.start()]
        if sign in "[{":
            depth += 1
            if depth > _DEEPEST:
                raise ValueError(f"nested deeper than {_DEEPEST} levels")
            if depth % _PIECE == 0:
                parts[-1].append(text[begin:at])
                parts.append([])
                begin = at
        elif sign in "]}":
            if depth % _PIECE == 0 and len(parts) > 1:
                part = "".join([*parts.pop(), text[begin : at + 1]])
                _loaded(part)
                parts[-1].append(f" {int(hashlib.sha256(part.encode(errors='replace')).hexdigest()[:15], 16)} ")
                begin = at + 1
            depth -= 1
    if len(parts) > 1:
        raise ValueError("it ends in the middle")
    return "".join([*parts[0], text[begin:]])


def _number(text: str) -> int | float:
    return int(text) if len(text) <= _INT64 + 1 else float(text)


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is not a number")


def _as_go(value: object, kind: inspect.Type, *, conflicts: bool) -> object:
    """What of the value Go would keep for this type; what does not fit is left for msgspec to refuse."""
    kind = _present(kind, value)
    if isinstance(kind, inspect.AnyType):
        return value
    if value is None:
        return _zero(kind)
    pairs = _pairs(value)
    if isinstance(kind, inspect.StructType) and pairs is not None:
        return _fields(pairs, kind.cls, conflicts=conflicts)
    if isinstance(kind, inspect.DictType) and pairs is not None:
        return {_text(key): _as_go(item, kind.value_type, conflicts=conflicts) for key, item in pairs}
    if isinstance(kind, inspect.CollectionType) and isinstance(value, list):
        return [_as_go(item, kind.item_type, conflicts=conflicts) for item in value]
    rest = value if pairs is None else dict(pairs)
    return _text(rest) if isinstance(rest, str) else rest


def _fields(pairs: Iterable[tuple[str, Any]], cls: type, *, conflicts: bool) -> dict[str, object]:
    """The fields of a struct by their exact names, each once."""
    exact, folded = _names(cls)
    found: dict[str, object] = {}
    for key, item in pairs:
        field = exact.get(key) or folded.get(_folded(key))
        if field is None:
            continue
        absent = item is None and not isinstance(field.type, inspect.AnyType)
        value = _ABSENT if absent else _as_go(item, field.type, conflicts=conflicts)
        if conflicts and not _same(found.setdefault(field.encode_name, value), value):
            raise MalformedDocument(f"{field.encode_name} occurs twice, with two values: readers would disagree")
        before = found.get(field.encode_name)
        if absent and before is not None and not isinstance(field.type, inspect.DictType | inspect.CollectionType):
            continue  # null changes nothing that is no map and no list
        if isinstance(field.type, inspect.DictType) and isinstance(before, dict) and isinstance(value, dict):
            value = {**before, **value}  # Go reads the second into the map that it has made for the first
        found[field.encode_name] = value
    return {name: value for name, value in found.items() if value is not _ABSENT}


def _same(one: object, other: object) -> bool:
    try:
        return one == other
    except RecursionError:  # some 500 levels; a parser that gets as far may see less
        return False


def _pairs(value: object) -> Iterable[tuple[str, Any]] | None:
    """Keys and values of an object; None for every other value."""
    if isinstance(value, _Object):
        return value
    return value.items() if isinstance(value, dict) else None


def _present(kind: inspect.Type, value: object) -> inspect.Type:
    """``X`` of ``X | None``. Of several forms that a field may have, the one for lists when it is a list."""
    if not isinstance(kind, inspect.UnionType):
        return kind
    forms = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
    lists = [each for each in forms if isinstance(each, inspect.CollectionType)]
    return lists[0] if lists and isinstance(value, list) else forms[0]


def _zero(kind: inspect.Type) -> object:
    """What ``null`` is as an element of a list, as a value of a map, or as the whole document."""
    if isinstance(kind, inspect.StructType | inspect.DictType):
        return {}
    if isinstance(kind, inspect.CollectionType):
        return []
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return 0
    return False if isinstance(kind, inspect.BoolType) else ""


def _text(text: str) -> str:
    """Whole pairs, which YAML leaves in two halves, become their character."""
    if _HALF.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _folded(key: str) -> str:
    """Equal for keys that Go's ``bytes.EqualFold`` takes for one another, as far as names in ASCII are concerned."""
    return key.lower().replace("\u017f", "s")  # a long s; the other such letter, the Kelvin sign, is a small k by now


@functools.cache
def _type(kind: type) -> inspect.Type:
    return inspect.type_info(kind)


@functools.cache
def _names(cls: type) -> tuple[dict[str, inspect.Field], dict[str, inspect.Field]]:
    """Fields by their name in JSON, and by that folded."""
    described = _type(cls)
    fields = described.fields if isinstance(described, inspect.StructType) else ()
    return {each.encode_name: each for each in fields}, {_folded(each.encode_name): each for each in fields}


@functools.cache
def _spellings(kind: type) -> tuple[frozenset[str], frozenset[str]]:
    """The names in JSON of all fields in the type, and those folded."""
    exact = frozenset(each.encode_name for struct in _structs(_type(kind)) for each in struct.fields)
    return exact, frozenset(map(_folded, exact))


def _structs(kind: inspect.Type) -> Iterator[inspect.StructType]:
    inner: Iterable[inspect.Type] = ()
    if isinstance(kind, inspect.StructType):
        yield kind
        inner = [each.type for each in kind.fields]
    elif isinstance(kind, inspect.UnionType):
        inner = kind.types
    elif isinstance(kind, inspect.DictType):
        inner = (kind.value_type,)
    elif isinstance(kind, inspect.CollectionType):
        inner = (kind.item_type,)
    for each in inner:
        yield from _structs(each)
