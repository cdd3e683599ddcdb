"""Which bundles containers have started from, remembered in the node's state for eviction (least recently used)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from imagecache.agent.state import NodeState
from imagecache.clock import Clock


class LayerUses:
    """Collects uses in memory and writes them once per interval."""

    def __init__(self, state: NodeState, clock: Clock, interval: float) -> None:
        self._state = state
        self._clock = clock
        self._interval = interval
        self._written = float("-inf")
        self._pending: deque[tuple[Path, ...]] = deque()

    def note(self, layers: Iterable[Path]) -> None:
        """A container starts from these layer images. Callable from any thread, returns at once."""
        self._pending.append(tuple(layers))  # a deque's append is atomic, so no lock

    async def write(self) -> None:
        """Raises StoreError, NoSpace, StoreDenied."""
        now = self._clock.monotonic()
        if now - self._written < self._interval or not self._pending:
            return
        self._written = now
        moment = self._clock.now().timestamp()
        names: set[str] = set()
        while self._pending:
            names.update(path.name for path in self._pending.popleft())
        # by file name: uses are absolute paths, layer names are relative to the store
        for bundle_id, document in self._state.documents.items():
            if any(Path(layer.path).name in names for layer in document.layer_names()):
                self._state.used(bundle_id, moment)
        await asyncio.to_thread(self._state.flush)
