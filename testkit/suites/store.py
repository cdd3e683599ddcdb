"""What every ``LayerProvider`` must do: the store's own, and the fake.

Subclass ``LayerProviderSuite`` and give it a ``shelf`` fixture. A shelf is the provider with the means to put layers
there and take them away.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import pytest

from imagecache.digest import ChainID, DiffID, Digest, chain_ids
from imagecache.snapshotter.dependencies import LayerProvider, ServedLayer


class Shelf(Protocol):
    @property
    def provider(self) -> LayerProvider:
        """The thing under test; the same object each time."""

    def publish(self, bundle: str, diff_ids: Sequence[DiffID]) -> None:
        """A bundle with one image of these layers, bottom first, keyed by diffID; each file has 4096 bytes."""

    def withdraw(self, bundle: str) -> None:
        """Delete the bundle; nothing is collected yet."""

    def collect(self) -> None:
        """Remove what no bundle and no holder needs."""

    def lose(self, layer: ServedLayer) -> None:
        """Take the file away although it is needed."""


def diff_ids(*texts: str) -> list[DiffID]:
    return [DiffID(Digest.sha256(text.encode())) for text in texts]


class LayerProviderSuite:
    @pytest.fixture
    def shelf(self) -> Shelf:
        raise NotImplementedError

    def find(self, shelf: Shelf, chain: ChainID) -> ServedLayer:
        layer = shelf.provider.lookup(chain)
        assert layer is not None
        return layer

    def test_unknown_chain_is_a_miss(self, shelf: Shelf) -> None:
        shelf.publish("a", diff_ids("base"))

        assert shelf.provider.lookup(ChainID(Digest.sha256(b"other"))) is None

    def test_every_layer_of_an_image_is_served_on_top_of_its_parent(self, shelf: Shelf) -> None:
        ids = diff_ids("base", "app", "config")
        shelf.publish("a", ids)

        chain = chain_ids(ids)
        layers = [self.find(shelf, name) for name in chain]
        assert [layer.diff_id for layer in layers] == ids
        assert [layer.chain_id for layer in layers] == list(chain)
        assert [layer.parent for layer in layers] == [None, *chain[:-1]]
        assert all(layer.size == 4096 for layer in layers)
        assert len({layer.path for layer in layers}) == 3

    def test_a_diff_id_in_the_middle_is_not_a_chain_id(self, shelf: Shelf) -> None:
        base, app = diff_ids("base", "app")
        shelf.publish("a", [base, app])

        assert shelf.provider.lookup(ChainID(app)) is None

    def test_new_bundles_are_seen(self, shelf: Shelf) -> None:
        (late,) = diff_ids("late")
        assert shelf.provider.lookup(ChainID(late)) is None

        shelf.publish("a", [late])

        assert self.find(shelf, ChainID(late)).diff_id == late

    def test_deleted_bundles_are_not_served(self, shelf: Shelf) -> None:
        (base,) = diff_ids("base")
        shelf.publish("a", [base])
        self.find(shelf, ChainID(base))

        shelf.withdraw("a")

        assert shelf.provider.lookup(ChainID(base)) is None

    def test_two_bundles_may_serve_one_layer(self, shelf: Shelf) -> None:
        (base,) = diff_ids("base")
        shelf.publish("a", [base])
        shelf.publish("b", [base])

        shelf.withdraw("a")
        shelf.collect()

        assert self.find(shelf, ChainID(base)).diff_id == base

    def test_a_lost_file_is_a_miss(self, shelf: Shelf) -> None:
        (base,) = diff_ids("base")
        shelf.publish("a", [base])
        layer = self.find(shelf, ChainID(base))

        shelf.lose(layer)

        assert shelf.provider.lookup(ChainID(base)) is None
        assert shelf.provider.open_layer(layer.name) is None

    def test_a_held_layer_outlives_its_bundle(self, shelf: Shelf) -> None:
        (base,) = diff_ids("base")
        shelf.publish("a", [base])
        layer = self.find(shelf, ChainID(base))
        shelf.provider.lease("node", layer.name)

        shelf.withdraw("a")
        shelf.collect()

        assert shelf.provider.open_layer(layer.name) == layer.path

    def test_a_released_layer_goes(self, shelf: Shelf) -> None:
        (base,) = diff_ids("base")
        shelf.publish("a", [base])
        layer = self.find(shelf, ChainID(base))
        shelf.provider.lease("node", layer.name)
        shelf.withdraw("a")

        shelf.provider.release("node", layer.name)
        shelf.collect()

        assert shelf.provider.open_layer(layer.name) is None

    def test_holders_do_not_know_each_other(self, shelf: Shelf) -> None:
        (base,) = diff_ids("base")
        shelf.publish("a", [base])
        layer = self.find(shelf, ChainID(base))
        shelf.provider.lease("one", layer.name)
        shelf.provider.lease("two", layer.name)
        shelf.withdraw("a")

        shelf.provider.release("one", layer.name)
        shelf.collect()

        assert shelf.provider.open_layer(layer.name) == layer.path

    def test_hold_and_release_are_idempotent(self, shelf: Shelf) -> None:
        (base,) = diff_ids("base")
        shelf.publish("a", [base])
        layer = self.find(shelf, ChainID(base))
        shelf.provider.release("node", layer.name)
        shelf.provider.lease("node", layer.name)
        shelf.provider.lease("node", layer.name)
        shelf.provider.release("node", layer.name)
        shelf.provider.release("node", layer.name)
        shelf.withdraw("a")
        shelf.collect()

        assert shelf.provider.open_layer(layer.name) is None

    def test_many_threads_look_up_and_hold_at_once(self, shelf: Shelf) -> None:
        ids = diff_ids(*(f"layer {number}" for number in range(20)))
        shelf.publish("a", ids)
        chain = chain_ids(ids)

        def work() -> None:
            for name in chain:
                shelf.provider.lease("node", self.find(shelf, name).name)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        layers = [self.find(shelf, name) for name in chain]
        shelf.withdraw("a")
        shelf.collect()

        assert all(shelf.provider.open_layer(layer.name) == layer.path for layer in layers)
