"""Committed snapshots that layer images serve: they save the pull, and a lost database is rebuilt from them.

containerd's remote snapshot protocol (docs/snapshotters/remote-snapshotter.md): before it fetches a layer it prepares
a snapshot with the layer's chainID in a label. If the store has that layer, a committed snapshot is inserted under a
name that depends on nothing else, and Prepare answers ALREADY_EXISTS; containerd then finds it by label and parent and
skips the layer. A failure here is a warning and an ordinary pull, never an error. The rows are not fsynced: those that
a power failure takes are recovered from their names. It must not call containerd.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from imagecache.clock import Clock
from imagecache.digest import ChainID
from imagecache.errors import BlobNotFound, ImageCacheError
from imagecache.snapshotter.database import Database
from imagecache.snapshotter.dependencies import LayerProvider, Observer, ServedLayer
from imagecache.snapshotter.layer_mounts import LayerMounts
from imagecache.snapshotter.snapshot import (
    REF_LABEL,
    Kind,
    LayerExists,
    Row,
    Usage,
    chain_of,
    repository_of,
    served_name,
    target_of,
)
from imagecache.snapshotter.transactions import ServedRow

_log = structlog.get_logger(__name__)
_REMEMBERED = 10_000
"""Most names of removed snapshots that are kept in memory."""


class ServedSnapshots:
    """Thread-safe."""

    def __init__(
        self, database: Database, provider: LayerProvider, layers: LayerMounts, clock: Clock, observer: Observer
    ) -> None:
        self._database = database
        self._provider = provider
        self._layers = layers
        self._clock = clock
        self._observer = observer
        self._removed: dict[str, None] = {}

    def register(self, key: str, parent: str, labels: Mapping[str, str]) -> LayerExists | None:
        """The snapshot that makes the unpack into ``key`` needless; None when the layer must be pulled."""
        target = target_of(key, labels)
        if target is None:
            return None
        try:
            name = self._register(target, key, parent, labels)
        except (ImageCacheError, OSError) as error:
            _log.warning("layer image not usable, the layer is pulled", chain=target, problem=str(error))
            return None
        return None if name is None else LayerExists(target, name)

    def _register(self, target: ChainID, key: str, parent: str, labels: Mapping[str, str]) -> str | None:
        layer = self._lookup(target, repository_of(labels))
        if layer is None:
            return None
        below = self._below(parent)
        # A chainID names the whole chain: on any other parent, the layer would make another image.
        if (below.chain if below else None) != layer.parent or (parent and below is None):
            return None
        labels = {**labels, REF_LABEL: target}
        return self._existing(layer, below, labels) or self._insert(
            layer, below, served_name(key, target, parent), labels
        )

    def _lookup(self, chain: ChainID, repository: str = "") -> ServedLayer | None:
        layer = self._provider.lookup(chain, repository)
        self._observer.looked_up(found=layer is not None)
        return layer

    def _below(self, parent: str) -> Row | None:
        if not parent:
            return None
        with self._database.read() as tx:
            found = tx.find(parent)
        row = found or self.recover(parent)
        return row if row is not None and row.info.kind is Kind.COMMITTED else None

    def _existing(self, layer: ServedLayer, below: Row | None, labels: Mapping[str, str]) -> str | None:
        """The name of the row that serves this already: the same question gets the same answer."""
        with self._database.read() as tx:
            row = tx.served(layer.chain_id, below.id if below else None)
        if row is None or row.layer is None:
            return None
        self._layers.ensure_mounted(row.layer, self._layers.version())
        if row.info.labels.get(REF_LABEL) != labels[REF_LABEL]:
            with self._database.write(durable=False) as tx:
                tx.relabel(row.info.name, labels, (f"labels.{REF_LABEL}",), self._clock.now())
        return row.info.name

    def _insert(self, layer: ServedLayer, below: Row | None, name: str, labels: Mapping[str, str]) -> str:
        parent_id = below.id if below else None
        # Mounted, although no container needs it yet: an answer "exists" for a layer that cannot be mounted would be an
        # image that cannot start, and a pull in time would have made it work.
        with self._layers.leased(layer.name, mount=True) as ref, self._database.write(durable=False) as tx:
            row = tx.served(layer.chain_id, parent_id)
            if row is not None:  # another call was faster
                return row.info.name
            if below is not None:
                tx.committed_parent(below.info.name)  # it may have been removed since it was read
            tx.insert_served(
                ServedRow(name, layer.chain_id, ref, parent_id, labels, Usage(layer.size, 1)), self._clock.now()
            )
        return name

    def forget(self, name: str) -> None:
        """The snapshot was removed: it must not be recovered when containerd asks for it once more."""
        if chain_of(name) is not None:
            self._removed[name] = None
        if len(self._removed) > _REMEMBERED:
            self._removed.pop(next(iter(self._removed)), None)

    def recover(self, name: str) -> Row | None:
        """Rebuild a lost row that containerd knows, with those below it; None if that is not possible.

        Only for names that end with the chainID of a served layer, and were not removed. It mounts nothing.
        """
        chain = chain_of(name)
        if chain is None or name in self._removed:
            return None
        try:
            layers = self._down_to_known(chain)
            if not layers:
                return None
            self._rebuild(name, layers)
        except (ImageCacheError, OSError) as error:
            _log.warning("lost snapshot not recovered", snapshot=name, problem=str(error))
            return None
        _log.info("lost snapshot recovered", snapshot=name)
        with self._database.read() as tx:
            return tx.find(name)

    def _down_to_known(self, chain: ChainID) -> list[ServedLayer]:
        """The served layers from ``chain`` down to one whose parent has a row, or to the bottom.

        None when ``chain`` is not served. Raises BlobNotFound when a layer below is not.
        """
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

    def _rebuild(self, name: str, layers: list[ServedLayer]) -> None:
        """Bottom first. The top gets the name that containerd asked for, the others those that they had before."""
        bottom = layers[-1].parent
        below = self._committed(bottom) if bottom is not None else None
        for layer in reversed(layers):
            parent = below.info.name if below else ""
            this = name if layer is layers[0] else served_name(name, layer.chain_id, parent)
            self._insert_lost(layer, below, this)
            with self._database.read() as tx:
                below = tx.get(this)

    def _insert_lost(self, layer: ServedLayer, below: Row | None, name: str) -> None:
        with self._layers.leased(layer.name, mount=False) as ref, self._database.write(durable=False) as tx:
            if tx.find(name) is None:
                labels = {REF_LABEL: str(layer.chain_id)}
                parent_id = below.id if below else None
                tx.insert_served(
                    ServedRow(name, layer.chain_id, ref, parent_id, labels, Usage(layer.size, 1)), self._clock.now()
                )

    def _committed(self, chain: ChainID) -> Row | None:
        with self._database.read() as tx:
            return tx.committed(chain)
