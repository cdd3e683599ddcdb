"""``status.events``: the newest 50, repeated ones counted.

Each has the keys of both published generations (eci-api §1.5, §6). It must not decide what is an event.
"""

from __future__ import annotations

import datetime as dt

import msgspec

from imagecache.api import times
from imagecache.api.types import Event, EventMetadata, EventSource
from imagecache.written import printable

MESSAGE = 1024
"""Characters of a message; the API server bounds those of events with an ``eventTime``, which ours do not have."""
_ABOUT = 512
"""Characters of a reference that are repeated."""
KEPT = 50
"""As upstream (eci-api §5.5)."""
NORMAL = "Normal"
WARNING = "Warning"
COMPONENT = "imagecache"


def event(reason: str, message: str, *, about: str, now: dt.datetime, kind: str = NORMAL) -> Event:
    """A new event about an image reference or a cache's name. Both texts may be anyone's."""
    stamp, message, about = times.render(now), printable(message, MESSAGE), printable(about, _ABOUT)
    return Event(
        type=kind,
        reason=reason,
        message=message,
        name=about,
        first_timestamp=stamp,
        last_timestamp=stamp,
        timestamp=stamp,
        metadata=EventMetadata(name=about),
        source=EventSource(component=COMPONENT),
    )


def append(events: tuple[Event, ...], new: Event) -> tuple[Event, ...]:
    """``events`` and the new one, oldest first. A repeated event is counted and becomes the newest."""
    earlier = next((old for old in events if _same(old, new)), None)
    if earlier is not None:
        new = msgspec.structs.replace(new, count=earlier.count + 1, first_timestamp=earlier.first_timestamp)
    # the repeated one moves to the end: the newest are kept, and a retry must not be dropped as the oldest
    return (*(old for old in events if old is not earlier), new)[-KEPT:]


def _same(one: Event, other: Event) -> bool:
    return (one.type, one.reason, one.message, one.name) == (other.type, other.reason, other.message, other.name)


def has(events: tuple[Event, ...], reason: str, message: str) -> bool:
    """Whether one of them says so."""
    said = printable(message, MESSAGE)
    return any((event.reason, event.message) == (reason, said) for event in events)
