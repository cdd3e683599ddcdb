"""The agent's loop on a node whose runtime handlers have snapshotters of their own."""

from __future__ import annotations

from imagecache.agent.budget import Disk
from imagecache.agent.direct_layers import DirectLayers
from imagecache.agent.state import NodeState
from imagecache.containerd.api import Attached
from imagecache.containerd.handlers import Handlers
from testkit.images import tar_of
from tests.unit.agent.bench import Bench, cache

A = f"imc-{'a' * 20}"
BASE = tar_of({"etc": None, "etc/base": b"b" * 300_000})
KATA = Handlers({"kata": "devmapper"}, frozenset({"devmapper", "overlayfs"}))


def unpacked(bench: Bench) -> tuple[str, ...]:
    entry = bench.entry()
    return entry.unpacked_into if entry else ()


async def started(bench: Bench, handlers: Handlers = KATA) -> None:
    await bench.origin.build(A, BASE)
    bench.attacher.found = handlers
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()


async def test_images_are_unpacked_and_the_report_says_so(bench: Bench) -> None:
    await started(bench)
    assert unpacked(bench) == ("devmapper",)
    entry = bench.entry()
    assert entry is not None
    assert entry.unpacked_bytes > 300_000
    assert bench.condition("HandlersServed") == ("True", "AsExpected")


async def test_a_handler_that_is_left_out_is_a_condition(bench: Bench) -> None:
    await started(bench, Handlers(KATA.snapshotters, KATA.loaded, ("off",)))
    assert unpacked(bench) == ()
    assert bench.condition("HandlersServed") == ("False", "AlsoUnpackOff")


async def test_a_cache_that_asks_for_something_else_is_attached_again(bench: Bench) -> None:
    await started(bench)
    bench.caches.put(cache("a", A, also_unpack=("off",)))
    await bench.until(lambda: unpacked(bench) == ())
    bench.caches.put(cache("a", A, also_unpack=("overlayfs",)))
    await bench.until(lambda: unpacked(bench) == ("overlayfs",))
    assert bench.attacher.attaches == [A, A, A]
    await bench.rounds()
    assert len(bench.attacher.attaches) == 3


async def test_a_cache_that_asks_for_direct_io_later_is_attached_again(bench: Bench) -> None:
    await started(bench, Handlers())
    layer = next(bench.store.layers.names())
    asked = DirectLayers(bench.store.paths.nodes / "worker", bench.store.layers.path)
    assert not asked(bench.store.layers.path(layer))
    bench.caches.put(cache("a", A, direct_io=True))
    await bench.until(lambda: asked(bench.store.layers.path(layer)))
    await bench.until(lambda: bench.attacher.attaches == [A, A])  # what it asks for is written before that
    await bench.rounds()
    assert len(bench.attacher.attaches) == 2


async def test_a_handler_that_is_configured_later_is_found(bench: Bench) -> None:
    await started(bench, Handlers())
    assert unpacked(bench) == ()
    bench.attacher.found = KATA
    bench.advance(31)
    await bench.until(lambda: unpacked(bench) == ("devmapper",))


async def test_snapshots_that_someone_removed_are_made_again(bench: Bench) -> None:
    await started(bench)
    bench.attacher.unpacked.clear()
    bench.advance(31)
    await bench.until(lambda: len(bench.attacher.attaches) == 2)
    await bench.ready()
    assert bench.attacher.unpacked


async def test_a_restarted_agent_needs_no_space_for_what_is_unpacked(bench: Bench) -> None:
    await started(bench)
    await bench.kill()
    full = bench.machine.size.capacity
    bench.machine.size = Disk(full, int(full * 0.17) + bench.machine.stored())
    bench.start()
    await bench.ready()
    assert unpacked(bench) == ("devmapper",)


async def test_what_a_killed_agent_has_unpacked_needs_no_space_again(bench: Bench) -> None:
    """It was killed before the state said so, or an attach has failed."""
    await started(bench)
    await bench.kill()
    state = NodeState(bench.store.paths.nodes / "worker")
    state.load()
    state.made(A, Attached())
    full = bench.machine.size.capacity
    bench.machine.size = Disk(full, int(full * 0.17) + bench.machine.stored())
    bench.start()
    await bench.ready()
    assert unpacked(bench) == ("devmapper",)
