"""The store as the snapshotter's ``LayerProvider``: chainIDs to layer images, from memory.

One ``stat`` of ``index.json`` a lookup tells whether the bundles changed; documents are read once, since a digest
names them. A bundle that cannot be read is left out and logged: a miss is an ordinary pull, an exception would be a
node that starts nothing. It must not import the snapshotter.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import structlog

from imagecache.digest import ChainID, Digest
from imagecache.errors import StoreError
from imagecache.oci.descriptor import Descriptor
from imagecache.store.bundles import Bundles
from imagecache.store.leases import Leases
from imagecache.store.model import Bundle, LayerName, ServedLayer
from imagecache.store.paths import StorePaths

_log = structlog.get_logger(__name__)

_Version = tuple[int, int, int]
_Layers = dict[ChainID, tuple[ServedLayer, ...]]


class StoreLayerProvider:
    """Thread-safe."""

    def __init__(self, paths: StorePaths, bundles: Bundles, leases: Leases) -> None:
        self._paths = paths
        self._bundles = bundles
        self._leases = leases
        self._mutex = threading.Lock()
        self._version: _Version | None = None
        self._documents: dict[Digest, Bundle] = {}
        self._layers: _Layers = {}

    def lookup(self, chain_id: ChainID) -> ServedLayer | None:
        """The layer image that serves this chainID, if one is there. Hold it, then look again, then rely on it."""
        served = (layer for layer in self._current().get(chain_id, ()) if layer.path.is_file())
        return next(served, None)

    def lease(self, holder: str, name: LayerName) -> None:
        self._leases.lease(holder, name, durable=False)

    def release(self, holder: str, name: LayerName) -> None:
        self._leases.release(holder, name)

    def open_layer(self, name: LayerName) -> Path | None:
        path = self._paths.layer(name)
        return path if path.is_file() else None

    def _current(self) -> _Layers:
        with self._mutex:
            version = self._index_version()
            if version is None or version != self._version:
                self._refresh()
                self._version = version  # older than what was read, if it changed meanwhile: then it is read again
            return self._layers

    def _index_version(self) -> _Version | None:
        try:
            found = self._paths.index.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _refresh(self) -> None:
        try:
            entries = self._bundles.index().manifests
        except StoreError as error:
            _log.warning("index of the store is unreadable", problem=str(error))
            return
        known = self._documents
        self._documents = {}
        for entry in entries:
            document = known.get(entry.digest) or self._load(entry)
            if document is not None:
                self._documents[entry.digest] = document
        self._layers = {}
        for document in self._documents.values():
            for layer in self._served(document):
                others = self._layers.get(layer.chain_id, ())
                if layer not in others:
                    self._layers[layer.chain_id] = (*others, layer)

    def _load(self, entry: Descriptor) -> Bundle | None:
        try:
            return self._bundles.load(entry)
        except StoreError as error:
            _log.warning("bundle left out", manifest=entry.digest, problem=str(error))
            return None

    def _served(self, document: Bundle) -> Iterator[ServedLayer]:
        for image in document.images:
            parent: ChainID | None = None
            for layer in image.layers:
                path = self._paths.layer(layer.name)
                yield ServedLayer(layer.chain_id, layer.diff_id, parent, layer.name, path, layer.size)
                parent = layer.chain_id
