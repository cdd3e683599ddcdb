"""The table that ``imagecache get`` and ``kubectl get`` show: the same columns, the same text.

Ages and column widths are kubectl's (apimachinery ``util/duration.HumanDuration``, cli-runtime
``printers.TablePrinter``). It must not print.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from imagecache.api import times
from imagecache.api.types import ImageCache, Status

COLUMNS = ("NAME", "AGE", "CACHEID", "PHASE", "PROGRESS")
WIDE_COLUMNS = (*COLUMNS, "NODES", "SIZE", "REASON")
_PADDING = 3
_MIN_WIDTH = 6
"""Padding included (Go: tabwriter.NewWriter(output, 6, 4, 3, ' ', RememberWidths))."""

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_YEAR = 365 * _DAY


_AGES = (
    (2 * _MINUTE, 1, "s", 0, ""),
    (10 * _MINUTE, _MINUTE, "m", 1, "s"),
    (3 * _HOUR, _MINUTE, "m", 0, ""),
    (8 * _HOUR, _HOUR, "h", _MINUTE, "m"),
    (2 * _DAY, _HOUR, "h", 0, ""),
    (8 * _DAY, _DAY, "d", _HOUR, "h"),
    (2 * _YEAR, _DAY, "d", 0, ""),
    (8 * _YEAR, _YEAR, "y", _DAY, "d"),
)
"""Upper limit in seconds; unit and its letter; smaller unit (0: none) and its letter."""


def age(seconds: float) -> str:
    """A duration as kubectl prints it: two or three significant figures."""
    whole = int(seconds)
    if whole < -1:  # up to two seconds in the future count as now: clocks differ (HumanDuration)
        return "<invalid>"
    whole = max(whole, 0)
    for limit, unit, letter, small_unit, small_letter in _AGES:
        if whole < limit:
            small = whole % unit // small_unit if small_unit else 0
            return f"{whole // unit}{letter}" + (f"{small}{small_letter}" if small else "")
    return f"{whole // _YEAR}y"


def size(count: int, *, blank: str = "") -> str:
    """Bytes for people: ``0B``, ``999B``, ``1.5KiB``, ``245MiB``; ``blank`` goes before the unit."""
    value, units = float(count), ["TiB", "GiB", "MiB", "KiB", "B"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop()
    # one decimal below ten only: three significant figures are enough, and columns stay narrow
    number = f"{value:.1f}" if units[-1] != "B" and value < 10 else f"{value:.0f}"
    return f"{number}{blank}{units[-1]}"


def count(number: int, noun: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def row(cache: ImageCache, now: dt.datetime, *, wide: bool = False) -> tuple[str, ...]:
    """One line; cells without a value are empty, as kubectl shows them."""
    created = cache.metadata.creation_timestamp
    status = cache.status
    cells = (
        cache.name,
        age((now - times.parse(created)).total_seconds()) if created else "<unknown>",
        status.image_cache_id if status else "",
        status.phase.value if status else "",
        status.progress if status else "",
    )
    return cells + (_wide(status) if wide else ())


def _wide(status: Status | None) -> tuple[str, ...]:
    if status is None:
        return ("", "", "")
    nodes = f"{status.nodes.ready}/{status.nodes.desired}" if status.nodes else ""
    return (nodes, size(status.size) if status.size else "", status.reason)


class Table:
    """Lays out rows; remembers the widest cells, so that the columns of a watch stay aligned."""

    def __init__(self, header: Sequence[str]) -> None:
        self._header = tuple(header)
        self._widths = [0] * len(header)

    def lines(self, rows: Sequence[Sequence[str]], *, header: bool = True) -> list[str]:
        """The rows as text, below the header if wanted. The last column is not padded."""
        shown = [self._header, *rows] if header else list(rows)
        for cells in shown:
            for column, cell in enumerate(cells[:-1]):
                self._widths[column] = max(self._widths[column], len(cell) + _PADDING, _MIN_WIDTH)
        return [self._line(cells) for cells in shown]

    def _line(self, cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells[:-1], self._widths, strict=False))
        return "".join(padded) + cells[-1]
