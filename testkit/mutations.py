"""Every value that differs from another one in a single field, from the types themselves.

So a test that each of them is refused covers a field that is added later, without anybody remembering it: a type that
is not known here is an error. Pure.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from typing import Any

import msgspec

from imagecache.digest import Digest

_OTHER = Digest.sha256(b"another")


def mutations(value: object, *, examples: tuple[object, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(path of the field, the value with another one there), down to the leaves of structs, dataclasses and tuples.

    ``examples`` are values of the types that a field may have instead of None.
    """
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(type(value)):
            old = getattr(value, field.name)
            optional = field.type if old is None else None
            for path, new in _of_field(old, optional, examples):
                yield f".{field.name}{path}", msgspec.structs.replace(value, **{field.name: new})
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            for path, new in _of_field(getattr(value, each.name), None, examples):
                yield f".{each.name}{path}", dataclasses.replace(value, **{each.name: new})
    else:
        yield from _of_leaf(value, examples)


def _of_field(old: object, optional: object, examples: tuple[object, ...]) -> Iterator[tuple[str, Any]]:
    if old is None:
        found = [each for each in examples if isinstance(each, _types(optional))]
        if not found:
            raise TypeError(f"no example for {optional}: tell how this field may lie")
        yield "", found[0]
    else:
        yield from mutations(old, examples=examples)


def _types(optional: object) -> tuple[type, ...]:
    return tuple(each for each in getattr(optional, "__args__", ()) if each is not type(None))


def _of_leaf(value: object, examples: tuple[object, ...]) -> Iterator[tuple[str, Any]]:
    match value:
        case dict():
            yield "{+}", {**value, "added": "added"}
            yield from ((f"{{-{key}}}", {name: each for name, each in value.items() if name != key}) for key in value)
        case tuple():
            yield from _of_tuple(value, examples)
        case frozenset():
            yield from _of_set(value, examples)
        case _:
            yield from _of_scalar(value)


def _of_scalar(value: object) -> Iterator[tuple[str, Any]]:
    match value:
        case enum.Flag():
            for flag in type(value):
                yield f"^{flag.name}", value ^ flag
        case enum.Enum():
            yield "", next(each for each in type(value) if each is not value)
        case bool():
            yield "", not value
        case Digest():
            yield "", _OTHER
        case str():
            yield "", f"{value}x"
        case int():
            yield "+1", value + 1
            yield "=0", 0 if value else -1
        case _:
            raise TypeError(f"{type(value)}: tell how such a field may lie")


def _of_set(value: frozenset[Any], examples: tuple[object, ...]) -> Iterator[tuple[str, Any]]:
    for number, element in enumerate(sorted(value, key=repr)):
        yield f"{{-{number}}}", value - {element}
        for path, new in mutations(element, examples=examples):
            yield f"{{{number}}}{path}", value - {element} | {new}


def _of_tuple(value: tuple[Any, ...], examples: tuple[object, ...]) -> Iterator[tuple[str, Any]]:
    for number, element in enumerate(value):
        yield f"[-{number}]", (*value[:number], *value[number + 1 :])
        yield f"[{number}+]", (*value[: number + 1], element, *value[number + 1 :])
        for path, new in mutations(element, examples=examples):
            yield f"[{number}]{path}", (*value[:number], new, *value[number + 1 :])
    if len(value) > 1:
        yield "[reversed]", tuple(reversed(value))
    if not value:
        yield "[+]", ("added",) if not examples else (examples[0],)
