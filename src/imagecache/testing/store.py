"""Layer images in memory: the fake ``LayerProvider`` of the snapshotter's tests.

It has no disk: paths are made up unless a test gives real ones. It passes the same suite as the store's own provider
(``imagecache.testing.suites.store``). It must not check more than the port promises.
"""

from __future__ import annotations

from pathlib import Path

from imagecache.digest import ChainID, DiffID, chain_id
from imagecache.store.model import LayerName, ServedLayer, Space


class MemoryLayers:
    """Layer images by chainID. As in the store, a file goes when a collection finds it neither served nor held."""

    def __init__(self, root: Path = Path("/memory")) -> None:
        self.root = root
        self.holds: dict[str, set[LayerName]] = {}
        self._served: list[ServedLayer] = []
        self._files: dict[LayerName, Path] = {}

    def add(
        self, diff_id: DiffID, parent: ChainID | None = None, *, path: Path | None = None, size: int = 4096
    ) -> ServedLayer:
        """Serve a layer keyed by its diffID on top of ``parent``; ``path`` names a real file, if there is one."""
        name = LayerName(space=Space.LAYERS, digest=diff_id)
        layer = ServedLayer(chain_id(parent, diff_id), diff_id, parent, name, path or self.root / name.path, size)
        self.serve(layer)
        return layer

    def serve(self, layer: ServedLayer) -> None:
        """Serve it once more: two snapshots may have the same layer."""
        self._served.append(layer)
        self._files[layer.name] = layer.path

    def withdraw(self, layer: ServedLayer) -> None:
        """One snapshot with this layer is gone. The file stays."""
        self._served.remove(layer)

    def collect(self) -> None:
        kept = {layer.name for layer in self._served}.union(*self.holds.values())
        self._files = {name: path for name, path in self._files.items() if name in kept}

    def lose(self, name: LayerName) -> None:
        """The file is gone, whoever needs it."""
        del self._files[name]

    def lookup(self, chain_id: ChainID) -> ServedLayer | None:
        served = (layer for layer in self._served if layer.chain_id == chain_id and layer.name in self._files)
        return next(served, None)

    def hold(self, holder: str, name: LayerName) -> None:
        self.holds.setdefault(holder, set()).add(name)

    def release(self, holder: str, name: LayerName) -> None:
        self.holds.get(holder, set()).discard(name)

    def open_layer(self, name: LayerName) -> Path | None:
        return self._files.get(name)
