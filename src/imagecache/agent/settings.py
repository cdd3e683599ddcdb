"""What an administrator may choose about the agent's loop, with its defaults."""

from __future__ import annotations

from dataclasses import dataclass, field

from imagecache.agent.budget import Policy
from imagecache.agent.plan import Bounds


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Times in seconds."""

    taint_timeout: float = 300.0
    """After which the start-up taint is removed whatever is missing; 0: never."""
    policy: Policy = field(default_factory=Policy)
    bounds: Bounds = field(default_factory=Bounds)
    interval: float = 30.0
    """Between two rounds when nothing happens, and between two checks of the runtime's records."""
    report_pause: float = 1.0
    """Between two reports of what may wait: see ``RateLimit``."""
    settle: float = 10.0
    """After an eviction, until the next one: containers and collections take that long to free the bytes."""
    attach: int = 2
    """Bundles that are attached at a time: unpacking takes minutes, and one that hangs does not stop the others."""
