"""Values of JSON that Go's types take and msgspec's do not, or the other way round: fields of foreign documents.

Source: Go 1.26 ``time`` (``Time.UnmarshalJSON``, format_rfc3339.go) and ``encoding/json``. It must not decode anything.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated

import msgspec

_CLOCK = r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{1,2}):([0-9]{2}):([0-9]{2})"
_ZONE = r"(Z|[+-]([01][0-9]|2[0-4]):([0-5][0-9]|60))"
Time = Annotated[str, msgspec.Meta(pattern=rf"\A{_CLOCK}([.,][0-9]+)?{_ZONE}\Z")]
"""RFC 3339, a little more freely, as Go's ``time.Parse`` reads it: an hour of one digit, a comma, any number of digits
after it, a zone of 24 hours. Python's ``\\d`` would take the digits of every script, and its ``$`` a line break."""

Integer = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""Go's int64, and its int on the machines that we know."""

_MOMENT = re.compile(_CLOCK)


def check_moment(text: str) -> None:
    """Raises ValueError for a day or an hour that does not exist, as Go's ``time.Parse``."""
    if found := _MOMENT.match(text):
        year, month, day, hour, minute, second = map(int, found.groups())
        dt.datetime(year or 2000, month, day, hour, minute, second, tzinfo=dt.UTC)  # Go knows the year 0, a leap year
