"""Matches of pods that are not in a status yet: a cache's status is written for them once a minute at most.

Fifty pods that start at once are one write, a minute later. A controller that is killed loses those of that minute; one
that is stopped writes them. It must not write.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagecache.api.usage import Matches
from imagecache.clock import Clock

INTERVAL = 60.0
"""Seconds from the first match that is not written until it is."""


@dataclass
class _Entry:
    found: Matches
    since: float
    """Monotonic time of the first of them."""


class MatchLog:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}

    @property
    def pending(self) -> dict[str, Matches]:
        """By name of the cache."""
        return {name: entry.found for name, entry in self._entries.items()}

    def add(self, name: str, more: Matches) -> None:
        entry = self._entries.get(name)
        if entry is None:
            self._entries[name] = _Entry(more, self._clock.monotonic())
        else:
            entry.found += more

    def due(self, name: str) -> Matches | None:
        """What is to be written now."""
        return self._entries[name].found if self.seconds_left(name) == 0 else None

    def seconds_left(self, name: str) -> float | None:
        """Until there is something to write; None: there is nothing."""
        entry = self._entries.get(name)
        return None if entry is None else max(0.0, entry.since + INTERVAL - self._clock.monotonic())

    def written(self, name: str, found: Matches) -> None:
        """These are in the status; those that came meanwhile wait anew."""
        entry = self._entries[name]
        if entry.found.count > found.count:
            self._entries[name] = _Entry(entry.found - found, self._clock.monotonic())
        else:
            del self._entries[name]

    def forget(self, name: str) -> None:
        """There is no such cache."""
        self._entries.pop(name, None)
