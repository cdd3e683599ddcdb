"""A layer on its way to this node that several bundles wait for. It must not know where the layer comes from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from imagecache.fetch.transfer import Advanced


@dataclass(slots=True, eq=False)
class RunningTransfer:
    task: asyncio.Task[object] = field(init=False)
    """Set by the caller right after: the task needs ``advanced``."""
    listeners: list[Advanced] = field(default_factory=list)
    done: int = 0
    """Bytes of the layer image that are on this node."""

    def advanced(self, size: int) -> None:
        self.done = size
        for listener in self.listeners:
            listener(size)

    @contextlib.contextmanager
    def listening(self, listener: Advanced) -> Iterator[None]:
        """Report to ``listener`` what has arrived so far, and all that arrives within the block."""
        self.listeners.append(listener)
        listener(self.done)
        try:
            yield
        finally:
            self.listeners.remove(listener)
