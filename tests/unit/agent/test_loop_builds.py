"""The agent's loop and builds that are still running."""

from __future__ import annotations

from dataclasses import replace

from imagecache.agent.budget import Disk
from imagecache.agent.dependencies import Node
from imagecache.api import selector
from imagecache.api.assignment import Cache
from imagecache.limits import GIB
from imagecache.oci.descriptor import Platform
from testkit.images import tar_of
from tests.unit.agent.bench import Bench, cache
from tests.unit.fetch.origin import PartialLayer
from tests.unit.fetch.test_bundle import BASE, NOISE

A, B = (f"imc-{letter * 20}" for letter in "ab")


def building(name: str, bundle_id: str) -> Cache:
    return replace(cache(name, bundle_id), ready=False, building=bundle_id)


async def begun(bench: Bench, bundle_id: str = A) -> PartialLayer:
    """A build in the middle of its only layer."""
    document = await bench.origin.build(bundle_id, BASE)
    making = PartialLayer(bench.remote, document.images[0].layers[0])
    making.grow(300_000)
    bench.remote.builds[bundle_id, "amd64"] = (making.name,)
    return making


async def test_a_node_is_ready_with_prefetched_bytes(bench: Bench) -> None:
    making = await begun(bench)
    bench.caches.put(building("a", A))
    bench.start()
    await bench.until(lambda: bench.remote.fetched[making.name] >= 250_000)
    making.finish()
    await bench.until(lambda: bench.store.layers.has(making.name))
    assert not bench.attacher.attaches

    bench.caches.put(cache("a", A))
    await bench.ready()

    assert bench.remote.fetched[making.name] == len(making.content)
    await bench.until(lambda: not list(bench.store.paths.build_leases.iterdir()))
    await bench.rounds()
    assert bench.store.layers.has(making.name)


async def test_a_bundle_that_is_ready_in_the_middle_of_a_layer(bench: Bench) -> None:
    making = await begun(bench)
    bench.caches.put(building("a", A))
    bench.start()
    await bench.until(lambda: bench.remote.fetched[making.name] >= 250_000)

    bench.caches.put(cache("a", A))
    await bench.until(lambda: (entry := bench.entry()) and 250_000 <= entry.bytes_done < entry.bytes_total)
    making.finish()
    await bench.ready()

    assert bench.remote.fetched[making.name] == len(making.content)


async def test_layers_of_a_build_that_failed_are_removed(bench: Bench) -> None:
    making = await begun(bench)
    making.finish()
    bench.caches.put(building("a", A))
    bench.start()
    await bench.until(lambda: bench.store.layers.has(making.name))
    await bench.rounds()
    assert bench.store.layers.has(making.name)

    bench.caches.put(replace(building("a", A), building=""))

    await bench.until(lambda: not bench.store.layers.has(making.name))


async def test_a_node_prefetches_its_own_builds_only(bench: Bench) -> None:
    mine, others = await begun(bench, A), await bench.origin.build(B, tar_of({"b": b"b"}), name="tool:2")
    elsewhere = others.images[0].layers[0].name
    bench.remote.builds[B, "amd64"] = (elsewhere,)
    bench.caches.put(building("a", A), replace(building("b", B), selector=selector.parse("pool=cpu", "")))
    bench.start()

    await bench.until(lambda: bench.remote.fetched[mine.name] >= 250_000)
    await bench.rounds()

    assert not bench.remote.fetched[elsewhere]


async def test_a_prefetch_takes_only_spare_bytes(bench: Bench) -> None:
    making = await begun(bench)
    bench.machine.size = Disk(GIB, int(GIB * 0.17) + 200_000)
    bench.caches.put(building("a", A))
    bench.start()
    await bench.rounds()
    making.finish()
    bench.advance(600)
    await bench.rounds()
    assert not bench.store.layers.has(making.name)

    bench.machine.size = Disk(GIB, GIB)
    bench.advance(600)

    await bench.until(lambda: bench.store.layers.has(making.name))


async def test_a_prefetch_is_retried_when_the_store_was_away(bench: Bench) -> None:
    making = await begun(bench)
    making.finish()
    bench.remote.down = True
    bench.caches.put(building("a", A))
    bench.start()
    await bench.rounds()

    bench.remote.down = False
    bench.advance(30)

    await bench.until(lambda: bench.store.layers.has(making.name))


async def test_prefetched_layers_give_way_to_a_bundle(bench: Bench) -> None:
    making = await begun(bench)
    making.finish()
    document = await bench.origin.build(B, tar_of({"opt": None, "opt/b": NOISE[::-1]}), name="tool:2")
    bench.machine.size = Disk(GIB, int(GIB * 0.17) + 1_200_000)
    bench.caches.put(building("a", A))
    bench.start()
    await bench.until(lambda: bench.store.layers.has(making.name))

    bench.caches.put(cache("b", B))

    await bench.ready("b")
    assert set(bench.store.layers.names()) == document.layer_names()


async def test_a_node_prefetches_what_is_for_its_architecture(bench: Bench) -> None:
    mine, others = await begun(bench, A), await bench.origin.build(B, tar_of({"b": b"b"}), name="tool:2")
    elsewhere = others.images[0].layers[0].name
    bench.remote.builds[A, "arm64"] = (elsewhere,)
    bench.remote.builds[B, "arm64"] = (elsewhere,)
    arm64, amd64 = (Platform(os="linux", architecture=each) for each in ("arm64", "amd64"))
    bench.nodes.node = Node("uid-1", {"pool": "gpu"}, amd64)
    bench.caches.put(building("a", A), replace(building("b", B), named=(arm64,)))
    bench.start()

    await bench.until(lambda: bench.remote.fetched[mine.name] >= 250_000)
    mine.finish()
    await bench.until(lambda: bench.store.layers.has(mine.name))
    await bench.rounds()

    assert elsewhere not in bench.remote.fetched
