"""The store as the snapshotter's ``LayerProvider``: chainIDs to layer images, from memory.

A lookup takes one stat of ``index.json`` (``served_bundles``) and one of the layer image; where the bundle has a digest
of fs-verity, the kernel is asked for that of the file instead. It must not import the snapshotter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imagecache.digest import ChainID, Digest
from imagecache.store import verity
from imagecache.store.bundle_document import Bundle
from imagecache.store.layer_name import LayerName
from imagecache.store.layers import ServedLayer
from imagecache.store.leases import Leases
from imagecache.store.paths import StorePaths
from imagecache.store.served_bundles import ServedBundles, Version


@dataclass(frozen=True, slots=True)
class _Known:
    """A version of the bundles, and what they serve."""

    version: Version = None
    layers: Mapping[ChainID, tuple[ServedLayer, ...]] = field(default_factory=dict)
    sealed: Mapping[LayerName, Digest] = field(default_factory=dict)
    """What fs-verity must say of a layer image."""
    private: Mapping[ChainID, frozenset[str]] = field(default_factory=dict)
    """Repositories of the private images that have this chain, where no public one has it."""


class StoreLayerProvider:
    """Thread-safe."""

    def __init__(
        self,
        paths: StorePaths,
        bundles: ServedBundles,
        leases: Leases,
        measure: verity.Measure = verity.measure,
    ) -> None:
        self._paths = paths
        self._bundles = bundles
        self._leases = leases
        self._measure = measure
        self._known = _Known()
        """Replaced whole, so that no lookup needs a lock."""

    def lookup(self, chain_id: ChainID, repository: str = "") -> ServedLayer | None:
        """The layer image that serves this chainID, if it exists. Lease it, then check again, then rely on it.

        None for a pull of a repository that has nothing to do with the private images that alone have the chain: who
        knows nothing but digests of a private image is not to run it. Empty: nobody says what is pulled.
        """
        known = self._current()
        if repository and repository not in known.private.get(chain_id, {repository}):
            return None
        served = (layer for layer in known.layers.get(chain_id, ()) if self._is_there(layer.path, layer.name, known))
        return next(served, None)

    def lease(self, holder: str, name: LayerName) -> None:
        self._leases.lease(holder, name, durable=False)

    def release(self, holder: str, name: LayerName) -> None:
        self._leases.release(holder, name)

    def open_layer(self, name: LayerName) -> Path | None:
        path = self._paths.layer(name)
        return path if self._is_there(path, name, self._current()) else None

    def _is_there(self, path: Path, name: LayerName, known: _Known) -> bool:
        return verity.is_there(path, known.sealed.get(name), self._measure)

    def _current(self) -> _Known:
        version, bundles = self._bundles.current()
        if version is not self._known.version:
            self._known = self._read(version, bundles())
        return self._known

    def _read(self, version: Version, bundles: Iterable[Bundle]) -> _Known:
        layers: dict[ChainID, tuple[ServedLayer, ...]] = {}
        sealed: dict[LayerName, Digest] = {}
        private: dict[ChainID, set[str]] = {}
        public: set[ChainID] = set()
        for document in bundles:
            for image in document.images:
                chains = [layer.chain_id for layer in image.layers]
                if not image.private:
                    public.update(chains)
                for chain in chains if image.private else ():
                    private.setdefault(chain, set()).add(image.repository)
            for layer in self._served(document):
                others = layers.get(layer.chain_id, ())
                if layer not in others:
                    layers[layer.chain_id] = (*others, layer)
            records = (layer for image in document.images for layer in image.layers)
            sealed |= {layer.name: layer.verity for layer in records if layer.verity is not None}
        hidden = {chain: frozenset(having) for chain, having in private.items() if chain not in public}
        return _Known(version, layers, sealed, hidden)

    def _served(self, document: Bundle) -> Iterator[ServedLayer]:
        for image in document.images:
            parent: ChainID | None = None
            for layer in image.layers:
                path = self._paths.layer(layer.name)
                yield ServedLayer(layer.chain_id, layer.diff_id, parent, layer.name, path, layer.size)
                parent = layer.chain_id
