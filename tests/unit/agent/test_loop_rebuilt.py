"""The agent's loop when the controller has made another bundle of an id that this node has."""

from __future__ import annotations

import msgspec

from imagecache.store.store import Store
from testkit.images import tar_of
from tests.unit.agent.bench import Bench, cache

A = "imc-" + "a" * 20
BASE = tar_of({"etc": None, "etc/base": b"b" * 300_000})


async def test_rebuilt_under_the_same_id(bench: Bench) -> None:
    """The controller's store was lost and built again; this node has lost a layer of the old one."""
    first = await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()
    await bench.kill()
    second = msgspec.structs.replace(first, created="2031-01-01T00:00:00Z")
    bench.remote.bundles[A] = second
    for name in first.layer_names():
        bench.store.layers.path(name).unlink()

    bench.start()
    await bench.ready()

    assert bench.store.bundles.get(A) == second


async def test_what_was_rebuilt_under_the_same_id_is_attached_anew(bench: Bench) -> None:
    """Its names lead to the new image, and nothing leads to the old one any longer."""
    await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()
    Store(bench.origin.root).bundles.delete(A)
    second = await bench.origin.build(A, tar_of({"etc": None, "etc/other": b"other"}))

    bench.caches.show()

    await bench.until(lambda: set(bench.attacher.records.values()) == {second.images[0].target.digest})
    await bench.ready()
    assert bench.store.bundles.get(A) == second
    assert bench.attacher.attaches == [A, A]
