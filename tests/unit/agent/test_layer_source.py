"""What a node finds in its own store."""

from __future__ import annotations

from imagecache.agent.layer_source import FetchedLayerSource
from imagecache.api.assignment import Cache
from imagecache.store.store import Store
from testkit.images import tar_of
from testkit.served import MemoryRemoteStore
from testkit.store import put_layer
from tests.unit.fetch.origin import Fetchers, Origin, PartialLayer
from tests.unit.fetch.test_bundle import BASE, ID, fetch
from tests.unit.fetch.test_prefetch import prefetched, until

ASSIGNED = {ID: Cache("a", ID, ready=True)}


async def test_leased_layers(origin: Origin, node: Store, fetchers: Fetchers) -> None:
    document = await origin.build(ID, BASE)
    fetcher = fetchers()
    await fetch(fetcher)
    (name,) = document.layer_names()
    source = FetchedLayerSource(node, fetcher)
    assert not (await source.inventory(ASSIGNED)).leased

    node.leases.lease("containerd", name)

    found = await source.inventory(ASSIGNED)
    assert found.leased == {name}
    assert found.whole == {ID}
    assert not found.prefetched


async def test_layers_of_a_build_that_is_prefetched(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE, tar_of({"own": b"own"}))
    finished, partial = (PartialLayer(remote, layer) for layer in reversed(document.images[0].layers))
    finished.finish()
    partial.grow(300_000)
    remote.builds[ID, "amd64"] = (partial.name, finished.name)
    fetcher = fetchers()
    source = FetchedLayerSource(node, fetcher)
    async with prefetched(fetcher):
        await until(lambda: fetcher.builds.partial.get(partial.name, 0) >= 300_000 and node.layers.has(finished.name))

        found = await source.inventory({})

        size = node.layers.size(finished.name)
        assert found.leased == {partial.name, finished.name}
        assert found.prefetched == {partial.name: 300_000, finished.name: size}
        assert (found.present, found.partial) == ({finished.name: size}, {partial.name: 300_000})

    assert not (await source.inventory({})).prefetched


async def test_a_layer_that_was_just_committed_is_counted_once(
    origin: Origin, node: Store, remote: MemoryRemoteStore, fetchers: Fetchers
) -> None:
    document = await origin.build(ID, BASE)
    layer = PartialLayer(remote, document.images[0].layers[0])
    layer.grow(300_000)
    remote.builds[ID, "amd64"] = (layer.name,)
    fetcher = fetchers()
    async with prefetched(fetcher):
        await until(lambda: fetcher.builds.partial.get(layer.name, 0) >= 300_000)
        put_layer(node, layer.name, layer.content)

        found = await FetchedLayerSource(node, fetcher).inventory({})

        assert fetcher.builds.partial
        assert found.partial == {}
        assert found.present == found.prefetched == {layer.name: len(layer.content)}
