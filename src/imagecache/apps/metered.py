"""The snapshotter's ports with a counter around them, so that neither side knows metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from imagecache.digest import ChainID
from imagecache.errors import HostError
from imagecache.snapshotter.provider import LayerProvider, Mounter, ServedLayer
from imagecache.store.model import LayerName
from imagecache.telemetry.metrics import Metrics


class MeteredProvider:
    """Counts hits and misses, and says when something was let go.

    Args:
        inner: does the work.
        metrics: are counted up.
        released: called after something was let go.
    """

    def __init__(self, inner: LayerProvider, metrics: Metrics, released: Callable[[], None]) -> None:
        self._inner = inner
        self._metrics = metrics
        self._released = released

    def lookup(self, chain_id: ChainID) -> ServedLayer | None:
        layer = self._inner.lookup(chain_id)
        (self._metrics.layer_hits if layer else self._metrics.layer_misses).inc()
        return layer

    def lease(self, holder: str, name: LayerName) -> None:
        self._inner.lease(holder, name)

    def release(self, holder: str, name: LayerName) -> None:
        self._inner.release(holder, name)
        self._released()

    def open_layer(self, name: LayerName) -> Path | None:
        return self._inner.open_layer(name)


class MeteredMounter:
    def __init__(self, inner: Mounter, metrics: Metrics) -> None:
        self._inner = inner
        self._metrics = metrics

    def mount(self, image: Path, target: Path) -> None:
        start = time.monotonic()
        try:
            self._inner.mount(image, target)
        except HostError:
            self._metrics.mount_failures.inc()
            raise
        self._metrics.mount_seconds.observe(time.monotonic() - start)

    def unmount(self, target: Path) -> None:
        self._inner.unmount(target)

    def mounted(self, target: Path) -> bool:
        return self._inner.mounted(target)
