"""The agent's loop when space is short."""

from __future__ import annotations

from imagecache.agent.budget import Disk
from imagecache.api.nodes import CacheState
from imagecache.store.bundle_document import Bundle
from testkit.images import tar_of
from tests.unit.agent.bench import Bench, cache

A, B, C = (f"imc-{letter * 20}" for letter in "abc")
BASE = tar_of({"etc": None, "etc/base": b"b" * 300_000})
APP = "docker.io/library/app:1"


def tight(document: Bundle, *, free: int) -> Disk:
    """A disk of ten times the bundle's size, with so many thousandths of it free."""
    size = sum(layer.size for image in document.images for layer in image.layers)
    return Disk(size * 10, size * 10 * free // 1000)


async def test_a_cache_that_does_not_fit_is_not_begun(bench: Bench) -> None:
    document = await bench.origin.build(A, BASE)
    bench.machine.size = tight(document, free=200)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.until(lambda: bench.reason() == "InsufficientSpace")

    entry = bench.entry()
    assert entry is not None
    assert entry.state is CacheState.PENDING
    assert "needed" in entry.message
    assert "17 % of the disk must stay free" in entry.message
    assert bench.condition("InsufficientSpace") == ("True", "DiskBudget")
    assert not bench.remote.fetched

    bench.machine.size = tight(document, free=900)
    bench.loop.wake()
    await bench.ready()
    assert bench.condition("InsufficientSpace") == ("False", "AsExpected")


async def test_a_cache_that_can_never_fit_fails(bench: Bench) -> None:
    document = await bench.origin.build(A, BASE)
    size = document.images[0].layers[0].size
    bench.machine.size = Disk(size, size)
    bench.caches.put(cache("a", A))
    bench.start()

    await bench.until(lambda: bench.state() is CacheState.FAILED)

    assert bench.reason() == "InsufficientSpace"


async def test_the_more_important_cache_evicts_the_other(bench: Bench) -> None:
    first = await bench.origin.build(A, tar_of({"a": b"a" * 200_000}))
    await bench.origin.build(B, tar_of({"b": b"b" * 200_000}), name="tool:2")
    bench.machine.size = tight(first, free=300)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()

    bench.caches.put(cache("b", B, priority=5, created=2))

    await bench.ready("b")
    await bench.until(lambda: bench.reason() == "InsufficientSpace")
    bench.advance(11)
    await bench.rounds()
    assert bench.store.bundles.ids() == [B]
    assert APP not in bench.attacher.records
    assert len(bench.attacher.attaches) == 2  # nothing went back and forth


async def test_nothing_more_is_evicted_while_space_is_being_freed(bench: Bench) -> None:
    documents = {}
    for number, bundle_id in enumerate((A, B)):
        content = tar_of({f"f{number}": bytes([number]) * 200_000})
        documents[bundle_id] = await bench.origin.build(bundle_id, content, name=f"app:{number}")
    await bench.origin.build(C, tar_of({"c": b"c" * 200_000}), name="tool:2")
    bench.caches.put(cache("a", A), cache("b", B))
    bench.start()
    await bench.ready("a", "b")
    bench.store.leases.lease_many("snapshotter", documents[A].layer_names())  # let go late, as containerd does
    bench.machine.size = tight(documents[A], free=400)

    bench.caches.put(cache("c", C, priority=1, created=3))
    await bench.until(lambda: len(bench.store.bundles.ids()) == 1)
    await bench.rounds()
    assert len(bench.store.bundles.ids()) == 1


async def test_what_was_used_last_is_kept_longest(bench: Bench) -> None:
    first = await bench.origin.build(A, tar_of({"a": b"a" * 200_000}))
    await bench.origin.build(B, tar_of({"b": b"b" * 200_000}), name="tool:2")
    await bench.origin.build(C, tar_of({"c": b"c" * 200_000}), name="else:3")
    bench.machine.size = tight(first, free=400)
    created = bench.clock.now().timestamp()
    bench.caches.put(cache("a", A, created=created), cache("b", B, created=created + 1))
    bench.start()
    await bench.ready("a", "b")
    bench.clock.advance(100)
    bench.loop.used([bench.store.layers.path(name) for name in first.layer_names()])
    await bench.rounds()

    bench.caches.put(cache("c", C, created=created + 200))

    await bench.ready("a", "c")
    assert set(bench.store.bundles.ids()) == {A, C}
    assert bench.reason("b") == "InsufficientSpace"
