"""What a node finds in its own store."""

from __future__ import annotations

from tests.unit.cluster.bench import Fetchers, Making, Origin
from tests.unit.cluster.test_fetch import BASE, ID, fetch
from tests.unit.cluster.test_follow import followed, until

from imagecache.cluster.stock import FetchedStock
from imagecache.store.store import Store
from imagecache.testing.images import tar_of
from imagecache.testing.served import MemoryRemoteStore


async def test_layers_that_somebody_holds(origin: Origin, node: Store, fetchers: Fetchers) -> None:
    document = await origin.build(ID, BASE)
    fetcher = fetchers()
    await fetch(fetcher)
    (name,) = document.layer_names()
    stock = FetchedStock(node, fetcher)
    assert not (await stock.inventory([ID])).held

    node.leases.hold("containerd", name)

    found = await stock.inventory([ID])
    assert found.held == {name}
    assert found.whole == {ID}
    assert not found.ahead


async def test_layers_of_a_build_that_is_followed(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE, tar_of({"own": b"own"}))
    finished, growing = (Making(remote, layer) for layer in reversed(document.images[0].layers))
    finished.finish()
    growing.grow(300_000)
    remote.builds[ID] = (growing.name, finished.name)
    fetcher = fetchers()
    stock = FetchedStock(node, fetcher)
    async with followed(fetcher):
        await until(lambda: fetcher.builds.coming.get(growing.name, 0) >= 300_000 and node.layers.has(finished.name))

        found = await stock.inventory([])

        size = node.layers.size(finished.name)
        assert found.held == {growing.name, finished.name}
        assert found.ahead == {growing.name: 300_000, finished.name: size}
        assert (found.present, found.partial) == ({finished.name: size}, {growing.name: 300_000})

    assert not (await stock.inventory([])).ahead
