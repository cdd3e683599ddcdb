"""Numbers as Go's ``archive/tar`` reads them: octal, base-256 and decimal, with its exact tolerance.

Python's ``int`` accepts more than Go's ``strconv`` (underscores, ``0o``, inner blanks), so every form is checked before
it is converted. The functions raise ValueError; callers say which header was wrong. Source: ``archive/tar/strconv.go``.
"""

from __future__ import annotations

import re
from functools import lru_cache

INT64_MAX = (1 << 63) - 1
UINT64_MAX = (1 << 64) - 1

_OCTAL = re.compile(rb"[0-7]{1,22}")
"""22 octal digits hold 64 bits; a header field has 12 at most, a PAX one is decimal."""
_DECIMAL = re.compile(rb"[+-]?[0-9]+")
_PAX_TIME = re.compile(rb"([+-]?[0-9]+)(?:\.([0-9]*))?")


@lru_cache(maxsize=1 << 15)
def numeric(header_field: bytes) -> int:
    """A numeric header field, octal or base-256; may be negative.

    Cached: owners, modes and times repeat from file to file, and a hit costs a sixth of parsing.
    """
    if header_field[0] & 0x80:
        return _base256(header_field)
    return octal(header_field)


def octal(header_field: bytes) -> int:
    """Octal digits, padded on both sides with spaces and NULs; an empty field is zero."""
    digits = header_field.strip(b" \0")
    if not digits:
        return 0
    digits = digits.partition(b"\0")[0]  # as in C: what follows a NUL is not read
    if _OCTAL.fullmatch(digits) is None:
        raise ValueError(f"not an octal number: {header_field!r}")
    value = int(digits, 8)
    if value > UINT64_MAX:
        raise ValueError("an octal number over 64 bits")
    # Go parses an unsigned number and converts it to a signed one, bit by bit.
    return value - (1 << 64) if value > INT64_MAX else value


def _base256(header_field: bytes) -> int:
    """Two's complement, big-endian, below the marker bit: GNU's form of numbers that octal cannot hold."""
    width = 8 * len(header_field) - 1
    value = int.from_bytes(header_field, "big") & ((1 << width) - 1)
    if header_field[0] & 0x40:
        value -= 1 << width
    if not -INT64_MAX - 1 <= value <= INT64_MAX:
        raise ValueError(f"a base-256 number over 64 bits: {header_field!r}")
    return value


def decimal(text: bytes) -> int:
    """A decimal number of 64 bits with an optional sign, as in PAX records and sparse maps."""
    # Python refuses to convert more than 4300 digits (sys.set_int_max_str_digits); Go accepts leading zeros.
    if _DECIMAL.fullmatch(text) is None or len(text) > 4000:
        raise ValueError(f"not a decimal number: {text[:40]!r}")
    value = int(text)
    if not -INT64_MAX - 1 <= value <= INT64_MAX:
        raise ValueError(f"a decimal number over 64 bits: {text[:40]!r}")
    return value


def pax_time(text: bytes) -> tuple[int, int]:
    """``seconds[.fraction]`` to seconds and nanoseconds (0..999,999,999); digits past the ninth are dropped."""
    match = _PAX_TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"not a time: {text[:40]!r}")
    seconds = decimal(match[1])
    nanoseconds = int((match[2] or b"")[:9].ljust(9, b"0"))
    if nanoseconds and text[:1] == b"-":  # -1.25 s is 0.75 s after -2 s
        return seconds - 1, 1_000_000_000 - nanoseconds
    return seconds, nanoseconds
