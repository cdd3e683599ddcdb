"""Lines of a description: a label and its value, and tables below a title. It must not print."""

from __future__ import annotations

from collections.abc import Sequence

from imagecache.written import printable

_LABEL = 13


def section(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    from imagecache.api import columns

    if not rows:
        return [line(title, "<none>")]
    shown = [tuple(map(printable, row)) for row in rows]
    return [f"{title}:", *(f"  {text}".rstrip() for text in columns.Table(header).lines(shown))]


def line(label: str, value: str) -> str:
    return f"{label + ':' if label else '':<{_LABEL}} {printable(value)}".rstrip()
