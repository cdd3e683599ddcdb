"""The store as the snapshotter's ``LayerProvider``: chainIDs to layer images, from memory.

A lookup takes one stat of ``index.json`` (``documents``) and one of the layer image. A bundle that cannot be read is
left out and logged: a miss is an ordinary pull, an exception would be a node that starts nothing. It must
not import the snapshotter.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import structlog

from imagecache.digest import ChainID
from imagecache.errors import StoreError
from imagecache.store.bundle_document import Bundle
from imagecache.store.documents import BundleDocuments
from imagecache.store.layer_name import LayerName
from imagecache.store.layers import ServedLayer
from imagecache.store.leases import Leases
from imagecache.store.oci_layout import LayoutIndex
from imagecache.store.paths import StorePaths

_log = structlog.get_logger(__name__)

_Layers = dict[ChainID, tuple[ServedLayer, ...]]


class StoreLayerProvider:
    """Thread-safe."""

    def __init__(self, paths: StorePaths, documents: BundleDocuments, leases: Leases) -> None:
        self._paths = paths
        self._documents = documents
        self._leases = leases
        self._known: tuple[LayoutIndex | None, _Layers] = (None, {})
        """An index, and what its bundles serve. Replaced whole, so that no lookup needs a lock."""
        self._problem = ""

    def lookup(self, chain_id: ChainID) -> ServedLayer | None:
        """The layer image that serves this chainID, if it exists. Lease it, then check again, then rely on it."""
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
        try:
            index = self._documents.index()
        except StoreError as error:
            if str(error) != self._problem:  # once, not for each layer of each container
                self._problem = str(error)
                _log.warning("index of the store is unreadable", problem=self._problem)
            return self._known[1]
        known, layers = self._known
        if index is not known:
            layers = self._layers(index)
            self._known, self._problem = (index, layers), ""
        return layers

    def _layers(self, index: LayoutIndex) -> _Layers:
        found: _Layers = {}
        for entry in index.manifests:
            try:
                document = self._documents.load(entry)
            except StoreError as error:
                _log.warning("bundle left out", manifest=entry.digest, problem=str(error))
                continue
            for layer in self._served(document):
                others = found.get(layer.chain_id, ())
                if layer not in others:
                    found[layer.chain_id] = (*others, layer)
        return found

    def _served(self, document: Bundle) -> Iterator[ServedLayer]:
        for image in document.images:
            parent: ChainID | None = None
            for layer in image.layers:
                path = self._paths.layer(layer.name)
                yield ServedLayer(layer.chain_id, layer.diff_id, parent, layer.name, path, layer.size)
                parent = layer.chain_id
