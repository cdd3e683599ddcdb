"""What a controller knows about one object besides the object: what it has written, and what the status lacks yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from imagecache.api.tags import TagCheck
from imagecache.api.types import Event, Status
from imagecache.api.usage import Matches
from imagecache.backoff import Backoff, Retries
from imagecache.controller.watches import Seen
from imagecache.telemetry.log import get_logger

BACKOFF = Backoff(0.25, 30.0)
_log = get_logger(__name__)


@dataclass
class ObjectMemory:
    """What is known about one object besides the object."""

    name: str
    status: Status | None = None
    """As written last, in a cluster: the informer may lag behind it."""
    version: str = ""
    """The resourceVersion that it has since then."""
    written: float = -1e9
    """Monotonic time of that."""
    events: list[Event] = field(default_factory=list)
    """Of the build and of nodes, not in the status yet."""
    seen: dict[str, Seen] = field(default_factory=dict)
    """What the last decision was made by, besides the object and the store."""
    matches: Matches | None = None
    """That the last decision has put into the status."""
    tags: dict[str, TagCheck] = field(default_factory=dict)
    """Look-ups that the status may not have yet."""
    retries: Retries = field(init=False)

    def __post_init__(self) -> None:
        self.retries = Retries(BACKOFF, _log, name=self.name)
