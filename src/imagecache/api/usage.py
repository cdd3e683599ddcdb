"""How much an ImageCache is used: ``status.matches`` and ``status.lastMatchedTime``.

For people, and for what goes first where there is no room. It must not know what a match is.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from msgspec.structs import replace

from imagecache.api import times
from imagecache.api.types import Status


@dataclass(frozen=True, slots=True)
class Matches:
    """Pods that were matched with one cache."""

    count: int
    last: dt.datetime
    """When the last of them was."""

    def __add__(self, other: Matches) -> Matches:
        return Matches(self.count + other.count, max(self.last, other.last))

    def __sub__(self, other: Matches) -> Matches:
        """What is left of these after the others were written."""
        return Matches(self.count - other.count, self.last)


def matched(status: Status, more: Matches) -> Status:
    last = max(status.last_matched_time, times.render(more.last))  # text of that form sorts as the times do
    return replace(status, matches=status.matches + more.count, last_matched_time=last)
