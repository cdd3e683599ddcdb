"""The LayerProvider suite over each implementation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from imagecache.digest import ChainID, DiffID
from imagecache.store.layers import ServedLayer
from imagecache.store.store import Store
from testkit.store import MemoryLayers, put_bundle
from testkit.suites.store import LayerProviderSuite


class MemoryShelf:
    def __init__(self) -> None:
        self.provider = MemoryLayers()
        self._bundles: dict[str, list[ServedLayer]] = {}

    def publish(self, bundle: str, diff_ids: Sequence[DiffID]) -> None:
        layers: list[ServedLayer] = []
        for diff_id in diff_ids:
            parent: ChainID | None = layers[-1].chain_id if layers else None
            layers.append(self.provider.add(diff_id, parent))
        self._bundles[bundle] = layers

    def withdraw(self, bundle: str) -> None:
        for layer in self._bundles.pop(bundle):
            self.provider.withdraw(layer)

    def collect(self) -> None:
        self.provider.collect()

    def lose(self, layer: ServedLayer) -> None:
        self.provider.lose(layer.name)


class TestMemoryLayers(LayerProviderSuite):
    @pytest.fixture
    def shelf(self) -> MemoryShelf:
        return MemoryShelf()


class StoreShelf:
    def __init__(self, root: Path, leases: Path | None = None) -> None:
        self.store = Store.open(root, leases=leases)
        self.provider = self.store.provider

    def publish(self, bundle: str, diff_ids: Sequence[DiffID]) -> None:
        contents = [str(diff_id).encode().ljust(4096, b".") for diff_id in diff_ids]
        put_bundle(self.store, bundle, diff_ids, contents)

    def withdraw(self, bundle: str) -> None:
        self.store.bundles.delete(bundle)

    def collect(self) -> None:
        self.store.collect()

    def lose(self, layer: ServedLayer) -> None:
        layer.path.unlink()


class TestStoreLayerProvider(LayerProviderSuite):
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> StoreShelf:
        return StoreShelf(tmp_path / "store")


class SharedShelf(StoreShelf):
    """A node that shares the store, and serves what its agent has checked."""

    def __init__(self, root: Path, leases: Path) -> None:
        super().__init__(root, leases)
        self.node = Store.open_shared(root, leases=leases)
        self.provider = self.node.provider

    def publish(self, bundle: str, diff_ids: Sequence[DiffID]) -> None:
        super().publish(bundle, diff_ids)
        self.node.serve(self.store.bundles.all())

    def withdraw(self, bundle: str) -> None:
        super().withdraw(bundle)
        self.node.serve(self.store.bundles.all())


class TestSharedStoreLayerProvider(LayerProviderSuite):
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> SharedShelf:
        return SharedShelf(tmp_path / "store", tmp_path / "leases")
