"""Snapshots that layer images serve: what saves the pull, and what a lost database is made of again.

containerd's remote snapshot protocol (docs/snapshotters/remote-snapshotter.md): before it fetches a layer it prepares
a snapshot with the layer's chainID in a label. If the store has that layer, a committed snapshot is inserted under a
name that follows from what it is, and Prepare answers ALREADY_EXISTS; containerd then finds it by label and parent and
skips the layer. Trouble on this path is a warning and an ordinary pull, never an error. Rows are not synced one by
one: those that a power failure takes are made again from their names. It must not call containerd.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from imagecache.clock import Clock
from imagecache.digest import ChainID
from imagecache.errors import BlobNotFound, ImageCacheError
from imagecache.snapshotter import model
from imagecache.snapshotter.layer_mounts import LayerMounts
from imagecache.snapshotter.metadata import Metadata
from imagecache.snapshotter.model import REF_LABEL, LayerExists, Row, Usage
from imagecache.snapshotter.provider import LayerProvider, Observer, ServedLayer
from imagecache.snapshotter.rows import Served

_log = structlog.get_logger(__name__)
_REMEMBERED = 10_000
"""Names of removed snapshots that are kept in memory."""


class ServedSnapshots:
    """Thread-safe."""

    def __init__(
        self, metadata: Metadata, provider: LayerProvider, layers: LayerMounts, clock: Clock, observer: Observer
    ) -> None:
        self._observer = observer
        self._metadata = metadata
        self._provider = provider
        self._layers = layers
        self._clock = clock
        self._removed: dict[str, None] = {}

    def register(self, key: str, parent: str, labels: Mapping[str, str]) -> LayerExists | None:
        """The snapshot that makes the unpack into ``key`` needless; None when the layer must be pulled."""
        target = model.target_of(key, labels)
        if target is None:
            return None
        try:
            name = self._register(target, key, parent, labels)
            return None if name is None else LayerExists(target, name)
        except (ImageCacheError, OSError) as error:
            _log.warning("layer image not usable, the layer is pulled", chain=target, problem=str(error))
            return None

    def recover(self, name: str) -> Row | None:
        """Make the row again that containerd knows and we have lost, with those below it; None if we cannot.

        Only names that end with the chainID of a served layer; those that were removed stay removed. It mounts nothing.
        """
        chain = model.chain_of(name)
        if chain is None or name in self._removed:
            return None
        try:
            served = self._down_to_known(chain)
            if not served:
                return None
            self._rebuild(name, served)
        except (ImageCacheError, OSError) as error:
            _log.warning("lost snapshot not made again", snapshot=name, problem=str(error))
            return None
        _log.info("lost snapshot made again", snapshot=name)
        with self._metadata.read() as tx:
            return tx.find(name)

    def removed(self, name: str) -> None:
        """The name is not needed any more, so it is not to be recovered."""
        if model.chain_of(name) is not None:
            self._removed[name] = None
        if len(self._removed) > _REMEMBERED:
            self._removed.pop(next(iter(self._removed)), None)

    def _register(self, target: ChainID, key: str, parent: str, labels: Mapping[str, str]) -> str | None:
        served = self._lookup(target)
        if served is None:
            return None
        below = self._below(parent)
        if (below.chain if below else None) != served.parent or (parent and below is None):
            return None
        labels = {**labels, REF_LABEL: target}
        return self._present(served, below, labels) or self._insert(
            served, below, model.served_name(key, target, parent), labels
        )

    def _lookup(self, chain: ChainID) -> ServedLayer | None:
        layer = self._provider.lookup(chain)
        self._observer.looked_up(found=layer is not None)
        return layer

    def _below(self, parent: str) -> Row | None:
        if not parent:
            return None
        with self._metadata.read() as tx:
            found = tx.find(parent)
        row = found or self.recover(parent)
        return row if row is not None and row.info.kind is model.Kind.COMMITTED else None

    def _present(self, served: ServedLayer, below: Row | None, labels: Mapping[str, str]) -> str | None:
        """The row that serves this already: the same answer for the same question."""
        with self._metadata.read() as tx:
            row = tx.served(served.chain_id, below.id if below else None)
        if row is None or row.layer is None:
            return None
        self._layers.ensure(row.layer)
        if row.info.labels.get(REF_LABEL) != labels[REF_LABEL]:
            with self._metadata.write(durable=False) as writer:
                path = f"labels.{REF_LABEL}"
                writer.relabel(row.info.name, labels, (path,), self._clock.now())
        return row.info.name

    def _insert(self, served: ServedLayer, below: Row | None, name: str, labels: Mapping[str, str]) -> str:
        parent_id = below.id if below else None
        with self._layers.taken(served.name, mount=True) as layer, self._metadata.write(durable=False) as writer:
            row = writer.served(served.chain_id, parent_id)
            if row is not None:  # another call was faster
                return row.info.name
            if below is not None:
                writer.committed_parent(below.info.name)
            usage = Usage(served.size, 1)
            writer.insert_served(Served(name, served.chain_id, layer, parent_id, labels, usage), self._clock.now())
        return name

    def _down_to_known(self, chain: ChainID) -> list[ServedLayer]:
        """The served layers from ``chain`` down to one that has a row, or to the bottom; none if one is missing."""
        found: list[ServedLayer] = []
        wanted: ChainID | None = chain
        while wanted is not None:
            layer = self._lookup(wanted)
            if layer is None:
                if not found:
                    return []
                raise BlobNotFound(f"no layer image serves {wanted}, which is below {chain}")
            found.append(layer)
            wanted = layer.parent
            if wanted is not None and self._committed(wanted) is not None:
                break
        return found

    def _rebuild(self, name: str, served: list[ServedLayer]) -> None:
        """Bottom first; only the top has a name that containerd said, the others get those they had."""
        bottom = served[-1].parent
        below = self._committed(bottom) if bottom is not None else None
        for layer in reversed(served):
            parent = below.info.name if below else ""
            this = name if layer is served[0] else model.served_name(name, layer.chain_id, parent)
            self._insert_again(layer, below, this)
            with self._metadata.read() as tx:
                below = tx.get(this)

    def _insert_again(self, served: ServedLayer, below: Row | None, name: str) -> None:
        with self._layers.taken(served.name, mount=False) as layer, self._metadata.write(durable=False) as writer:
            if writer.find(name) is None:
                usage = Usage(served.size, 1)
                labels = {REF_LABEL: str(served.chain_id)}
                parent_id = below.id if below else None
                writer.insert_served(Served(name, served.chain_id, layer, parent_id, labels, usage), self._clock.now())

    def _committed(self, chain: ChainID) -> Row | None:
        with self._metadata.read() as tx:
            return tx.committed(chain)
