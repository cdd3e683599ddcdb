"""The agent's loop on a store that it shares with the controller."""

from __future__ import annotations

from tests.unit.cluster.bench import Bench, cache

from imagecache.cluster.stock import SharedStock
from imagecache.store.store import Store
from imagecache.testing.images import tar_of

A, B, C = (f"imc-{letter * 20}" for letter in "abc")
BASE = tar_of({"etc": None, "etc/base": b"b" * 300_000})
APP = "docker.io/library/app:1"


async def test_a_shared_store_is_only_looked_into(bench: Bench) -> None:
    shared = Store.open(bench.origin.root)
    bench.stock = SharedStock(shared)
    document = await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A), cache("b", B))
    bench.start()
    await bench.ready()
    await bench.until(lambda: bench.reason("b") == "NotFound")
    assert not list(bench.store.layers.names())
    assert bench.status.capacity_bytes == 0

    bench.caches.delete("a")
    shared.snapshots.delete(A)

    await bench.until(lambda: APP not in bench.attacher.records)
    await bench.until(lambda: bench.entry() is None)
    assert set(shared.layers.names()) == document.layer_names()


async def test_a_shared_store_that_lost_a_layer(bench: Bench) -> None:
    shared = Store.open(bench.origin.root)
    bench.stock = SharedStock(shared)
    document = await bench.origin.build(A, BASE)
    (name,) = document.layer_names()
    shared.layers.path(name).unlink()
    bench.caches.put(cache("a", A))
    bench.start()

    await bench.until(lambda: bench.reason() == "BlobNotFound")

    assert not bench.attacher.records
