"""Plain values as TOML text: the counterpart of ``tomllib``, which only reads. Source: toml.io, v1.0.0. Pure."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping

Table = dict[str, object]
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dumps(document: Mapping[str, object]) -> str:
    """The document as text: values first, then tables, each in the given order."""
    return "\n".join(_table(document, ())).lstrip("\n") + "\n"


def _table(table: Mapping[str, object], path: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    arrays = {key: value for key, value in table.items() if _is_array_of_tables(value)}
    plain = {key: value for key, value in table.items() if key not in tables and key not in arrays}
    if path and (plain or not table):
        lines += ["", f"[{_name(path)}]"]
    lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, items in arrays.items():
        for item in items if isinstance(items, list) else ():
            lines += ["", f"[[{_name((*path, key))}]]", *_inside(item, (*path, key))]
    for key, inner in tables.items():
        lines += _table(inner, (*path, key))
    return lines


def _inside(item: Mapping[str, object], path: tuple[str, ...]) -> list[str]:
    """The lines below the header of one element of an array of tables."""
    plain = {key: value for key, value in item.items() if not isinstance(value, dict)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, inner in item.items():
        if isinstance(inner, dict):
            lines += _table(inner, (*path, key))
    return lines


def _is_array_of_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _name(path: tuple[str, ...]) -> str:
    return ".".join(_key(part) for part in path)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"TOML has no {type(value).__name__}")
