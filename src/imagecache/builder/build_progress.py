"""The progress of a build: many layers at once, one number that only grows and ends at exactly the total.

Pure. It must not know where the bytes come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from imagecache.builder.build_events import Advanced, BuildEvent, LayerPlan, Planned
from imagecache.digest import Digest


class BuildProgress:
    """Counts compressed bytes: each layer twice, once when downloaded and once when converted."""

    def __init__(self, emit: Callable[[BuildEvent], None]) -> None:
        self._emit = emit
        self._sizes: dict[Digest, int] = {}
        self._downloaded: dict[Digest, int] = {}
        self._converted: dict[Digest, int] = {}
        self.done = 0
        self.total = 0

    def plan(self, layers: Iterable[LayerPlan]) -> None:
        plans = tuple(layers)
        for layer in plans:
            self._sizes[layer.digest] = layer.size
            self._downloaded[layer.digest] = self._converted[layer.digest] = layer.size if layer.cached else 0
        self.total = 2 * sum(self._sizes.values())
        self.done = sum(self._downloaded.values()) + sum(self._converted.values())
        self._emit(Planned(layers=plans, done=self.done, total=self.total))

    @property
    def left(self) -> int:
        """Compressed bytes that are still to convert."""
        return sum(self._sizes.values()) - sum(self._converted.values())

    def downloaded(self, layer: Digest, size: int) -> None:
        """The layer's download has ``size`` bytes. The counter stays when a download starts again."""
        self._advance(self._downloaded, layer, size)

    def converted(self, layer: Digest, size: int) -> None:
        """The layer's conversion has read ``size`` compressed bytes."""
        self._advance(self._converted, layer, size)

    def finished(self, layer: Digest) -> None:
        """Every position of the layer has its file, however it was found."""
        self._advance(self._downloaded, layer, self._sizes[layer])
        self._advance(self._converted, layer, self._sizes[layer])

    def _advance(self, counter: dict[Digest, int], layer: Digest, size: int) -> None:
        # Bounded by the plan: a blob that turns out longer than its descriptor must not push done past total.
        step = min(size, self._sizes[layer]) - counter[layer]
        if step <= 0:
            return
        counter[layer] += step
        self.done += step
        self._emit(
            Advanced(
                layer=layer,
                downloaded=self._downloaded[layer],
                converted=self._converted[layer],
                done=self.done,
                total=self.total,
            )
        )
