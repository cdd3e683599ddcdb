"""Release what deleted Nodes hold in a store that nodes share, a day after they were deleted.

A Node that was deleted may be registered again by its kubelet, with its containers still running, so not at once. When
nodes fetch into stores of their own, none has left anything here. It must not touch what a node of the cluster holds.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Collection
from pathlib import Path

from imagecache.api.nodes import HOST, is_holder_of
from imagecache.clock import Clock
from imagecache.oserrors import converting
from imagecache.store.durable_files import write_atomic
from imagecache.store.store import Store
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
GRACE = dt.timedelta(days=1)
MARK = "gone"
"""File in the directory of the node's agent: when the Node was first found deleted."""


class NodeGarbageCollector:
    """Calls block. One at a time."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def release(self, present: Collection[str]) -> tuple[str, ...]:
        """Nodes whose leases were released now; ``present`` is every Node of the cluster. Raises StoreError."""
        root = self._store.paths.nodes
        with converting(root):
            there = sorted(path for path in root.iterdir() if path.name != HOST) if root.is_dir() else []
        over = [directory for directory in there if self._is_over(directory, here=directory.name in present)]
        for directory in over:
            self._forget(directory)
        return tuple(directory.name for directory in over)

    def _is_over(self, directory: Path, *, here: bool) -> bool:
        mark, now = directory / MARK, self._clock.now()
        with converting(mark):
            if here:
                mark.unlink(missing_ok=True)
                return False
            since = _time(mark)
        if since is None or since > now:  # the clock was set back: the day begins anew, rather than never ending
            write_atomic(mark, now.isoformat().encode())
            return False
        return now - since >= GRACE

    def _forget(self, directory: Path) -> None:
        for holder in self._store.leases.holders():
            if is_holder_of(directory.name, holder):
                self._store.leases.release_all(holder)
        with converting(directory):
            shutil.rmtree(directory)
        _log.info("layers of a deleted node are released", node=directory.name)


def _time(mark: Path) -> dt.datetime | None:
    """None when the file has no time. Raises OSError."""
    try:
        return dt.datetime.fromisoformat(mark.read_text()).astimezone(dt.UTC)
    except (FileNotFoundError, ValueError):
        return None
