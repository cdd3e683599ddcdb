"""Durations as Go writes them: ``1m30s``, ``1.5s``, ``50000us``.

Source: Go 1.26 ``time.ParseDuration`` (time/format.go). Pure.
"""

from __future__ import annotations

import re
from decimal import Decimal

_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,  # the micro sign
    "\u03bcs": 10**3,  # the Greek mu
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(rf"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)({'|'.join(_NANOSECONDS)})")
_WHOLE = re.compile(rf"[-+]?(?:0|(?:{_PART.pattern})+)")
_LONGEST = 2**63 - 1
"""Nanoseconds: Go keeps them in 64 bits."""


def parse_duration(text: str) -> float:
    """Seconds, less than 0 after a minus. Raises ValueError."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a duration like 1m30s, 1.5s or 500ms")
    total = sum((Decimal(number) * _NANOSECONDS[unit] for number, unit in _PART.findall(text)), Decimal())
    if total > _LONGEST:
        raise ValueError(f"{text[:80]!r} is more than Go's longest duration, 292 years")
    return float(total) / 10**9 * (-1 if text.startswith("-") else 1)
