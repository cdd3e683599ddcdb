"""Progress of a running build, summed up from its events: bytes per layer and image, rate, time left.

Pure. It must not print.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from imagecache.builder.build_events import Advanced, BuildEvent, ImageReady, ImageResolved, Planned
from imagecache.digest import Digest

WINDOW = 5.0
"""Seconds over which the rate is measured: less jumps, more lags."""


@dataclass(slots=True)
class LayerTally:
    digest: Digest
    size: int
    """Compressed bytes."""
    images: tuple[str, ...]
    downloaded: int = 0
    converted: int = 0
    cached: bool = False

    @property
    def done(self) -> bool:
        return self.cached or self.converted >= self.size


@dataclass(slots=True)
class ImageTally:
    image: str
    digest: Digest
    layers: int
    size: int
    """Compressed bytes of all layers."""
    ready: bool = False


@dataclass(slots=True)
class Tally:
    """Sums of one build. ``done`` and ``total`` count every byte twice: when downloaded and when converted."""

    images: dict[str, ImageTally] = field(default_factory=dict)
    layers: dict[Digest, LayerTally] = field(default_factory=dict)
    done: int = 0
    total: int = 0
    _history: deque[tuple[float, int, int]] = field(default_factory=deque)
    """Time, bytes done, bytes downloaded."""

    def on(self, event: BuildEvent, now: float) -> None:
        """Add an event; ``now`` is monotonic seconds."""
        match event:
            case ImageResolved():
                self.images[event.image] = ImageTally(event.image, event.digest, event.layers, event.size)
                return
            case Planned():
                for plan in event.layers:
                    self.layers[plan.digest] = LayerTally(plan.digest, plan.size, plan.images, cached=plan.cached)
            case Advanced():
                layer = self.layers[event.layer]
                layer.downloaded, layer.converted = event.downloaded, event.converted
            case ImageReady():
                self.images[event.image].ready = True
        self.done, self.total = event.done, event.total
        self._remember(now)

    @property
    def percent(self) -> int:
        return self.done * 100 // self.total if self.total else 0

    @property
    def downloaded(self) -> int:
        """Compressed bytes downloaded in this run or in an earlier one that it resumes."""
        return sum(layer.downloaded for layer in self.layers.values())

    @property
    def rate(self) -> float:
        """Bytes downloaded per second."""
        return self._per_second(2)

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None while that is unknown."""
        speed = self._per_second(1)
        return (self.total - self.done) / speed if speed else None

    def _per_second(self, column: int) -> float:
        if len(self._history) < 2:
            return 0.0
        first, last = self._history[0], self._history[-1]
        passed = last[0] - first[0]
        return (last[column] - first[column]) / passed if passed > 0 else 0.0

    def _remember(self, now: float) -> None:
        self._history.append((now, self.done, self.downloaded))
        # two entries stay, however old: without a difference there is no rate
        while len(self._history) > 2 and self._history[0][0] < now - WINDOW:
            self._history.popleft()
