"""The agent's loop from end to end, one story a test."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from imagecache.agent.dependencies import Inventory, Node
from imagecache.agent.layer_source import FetchedLayerSource
from imagecache.api import selector
from imagecache.api.assignment import Cache
from imagecache.api.nodes import CacheState
from imagecache.digest import Digest
from imagecache.errors import (
    ContainerdMisconfigured,
    ImageCacheError,
    StoreUnreachable,
)
from imagecache.oci.descriptor import Platform
from imagecache.store.layer_name import LayerName
from testkit.images import tar_of
from tests.unit.agent.bench import Bench, cache

A, B, C = (f"imc-{letter * 20}" for letter in "abc")
CPU, GPU = (selector.parse(f"pool={pool}", "") for pool in ("cpu", "gpu"))
BASE = tar_of({"etc": None, "etc/base": b"b" * 300_000})
APP = "docker.io/library/app:1"


async def test_a_new_node_gets_the_caches_assigned_to_it(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    await bench.origin.build(B, BASE, tar_of({"opt/b": b"b"}), name="tool:2")
    await bench.origin.build(C, tar_of({"c": b"c"}), name="else:3")
    bench.caches.put(cache("a", A), cache("b", B, selector=GPU), cache("c", C, selector=CPU))
    bench.start()

    await bench.ready("a", "b")

    assert bench.entry("c") is None
    assert {APP, "docker.io/library/tool:2"} <= bench.attacher.records.keys()
    assert set(bench.store.bundles.ids()) == {A, B}
    entry = bench.entry("b")
    assert entry is not None
    assert entry.bytes_done == entry.bytes_total > 300_000
    assert bench.status.mode == "proxy"
    assert bench.condition("Ready") == ("True", "Working")
    assert bench.status.capacity_bytes == int(bench.machine.size.capacity * 0.83)
    assert sum(bench.remote.fetched.values()) == bench.status.used_bytes


async def test_a_node_counts_what_it_does(bench: Bench) -> None:
    def value(name: str, **labels: str) -> float | None:
        return bench.metrics.registry.get_sample_value(f"imagecache_{name}", labels)

    await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A), cache("b", B))
    bench.start()
    await bench.ready()
    await bench.until(lambda: bench.reason("b") == "NotFound")

    assert (value("fetch_seconds_count"), value("attach_seconds_count")) == (1, 1)
    assert value("attached_images") == len(bench.attacher.records)
    assert (value("node_caches", state="Ready"), value("node_caches", state="Pending")) == (1, 1)
    bench.caches.delete("a")
    await bench.until(lambda: bench.entry() is None)
    await bench.until(lambda: value("attached_images") == 0)
    assert value("node_caches", state="Ready") == 0


async def test_nothing_is_done_before_the_list_is_complete(bench: Bench) -> None:
    """An agent that starts while the API server is away keeps what it has."""
    await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()
    await bench.kill()
    silent = Bench(bench.store, bench.origin, bench.fetchers, attacher=bench.attacher)
    silent.caches.silent = True
    silent.start()

    for _ in range(5):
        silent.loop.wake()
        await asyncio.sleep(0)

    assert APP in silent.attacher.records
    assert silent.store.bundles.ids() == [A]
    await silent.kill()


async def test_progress_is_reported_in_bytes(bench: Bench) -> None:
    noise = bytes(range(256)) * 4000
    await bench.origin.build(A, tar_of({"etc": None, "etc/noise": noise}))
    gate = asyncio.Event()

    def on_piece(_name: LayerName, offset: int) -> ImageCacheError | None:
        return None if gate.is_set() or offset < 500_000 else StoreUnreachable("the cable is out")

    bench.remote.on_piece = on_piece
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.until(lambda: bench.reason() == "StoreUnreachable")

    entry = bench.entry()
    assert entry is not None
    assert entry.state is CacheState.PENDING
    assert 0 < entry.bytes_done < entry.bytes_total
    assert bench.condition("StoreReachable") == ("False", "StoreUnreachable")
    before = sum(bench.remote.fetched.values())
    gate.set()
    bench.advance(1)
    await bench.ready()
    assert sum(bench.remote.fetched.values()) - before < entry.bytes_total - entry.bytes_done + 300_000
    assert bench.condition("StoreReachable") == ("True", "AsExpected")


async def test_one_cache_that_fails_stops_no_other(bench: Bench) -> None:
    document = await bench.origin.build(A, BASE, tar_of({"opt/app": b"app"}))
    await bench.origin.build(B, tar_of({"b": b"b"}), name="tool:2")
    broken = document.images[0].layers[1].name  # its parent is implied: proven when it is whole
    bench.remote.damage[broken] = 1_000
    bench.caches.put(cache("a", A), cache("b", B))
    bench.start()

    await bench.ready("b")
    await bench.until(lambda: bench.state() is CacheState.FAILED)

    entry = bench.entry()
    assert entry is not None
    assert entry.reason == "StoreCorrupt"
    assert f"layer image {broken}: " in entry.message
    tries = bench.remote.damage[broken]
    await bench.rounds()
    assert bench.remote.damage[broken] == tries  # not yet
    bench.remote.damage.clear()
    bench.advance(601)
    await bench.ready()


async def test_a_store_that_comes_back(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.remote.down = True
    bench.caches.put(cache("a", A))
    bench.start()
    for _ in range(4):
        await bench.until(lambda: bench.reason() == "StoreUnreachable")
        bench.advance(31)
    assert bench.state() is CacheState.PENDING

    bench.remote.down = False
    bench.advance(31)

    await bench.ready()


async def test_killed_in_the_middle_and_started_again(bench: Bench) -> None:
    document = await bench.origin.build(A, tar_of({"etc": None, "etc/noise": bytes(range(256)) * 4000}))
    reached, gate = asyncio.Event(), asyncio.Event()

    def stop(_name: LayerName, offset: int) -> ImageCacheError | None:
        if offset >= 500_000 and not gate.is_set():
            reached.set()
        return None

    bench.remote.on_piece = stop
    bench.caches.put(cache("a", A))
    bench.start()
    await reached.wait()
    await bench.kill()
    (partial,) = bench.store.paths.downloads.iterdir()
    kept = partial.stat().st_size
    gate.set()
    bench.remote.fetched.clear()

    bench.start()
    await bench.ready()

    assert kept > 200_000
    assert sum(bench.remote.fetched.values()) == document.images[0].layers[0].size - kept


async def test_a_deleted_cache_leaves_nothing(bench: Bench) -> None:
    shared = tar_of({"opt/shared": b"s" * 1000})
    await bench.origin.build(A, BASE, shared)
    other = await bench.origin.build(B, BASE, name="tool:2")
    bench.caches.put(cache("a", A), cache("b", B))
    bench.start()
    await bench.ready("a", "b")

    bench.caches.delete("a")

    await bench.until(lambda: bench.store.bundles.ids() == [B])
    await bench.until(lambda: set(bench.store.layers.names()) == other.layer_names())
    assert APP not in bench.attacher.records
    assert "docker.io/library/tool:2" in bench.attacher.records
    await bench.until(lambda: bench.entry() is None)
    assert [path.stem for path in (bench.store.paths.nodes / "worker").glob("*.json")] == [B]


async def test_a_cache_deleted_while_the_agent_was_down(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()
    await bench.kill()
    bench.caches.delete("a")
    bench.attacher.running = False

    bench.start()
    await bench.until(lambda: bench.condition("RuntimeReachable") == ("False", "ContainerdUnavailable"))
    assert bench.store.bundles.ids() == [A]  # records first
    bench.attacher.running = True
    bench.advance(31)

    await bench.until(lambda: not list(bench.store.layers.names()))
    assert not bench.attacher.records


async def test_layers_that_a_container_needs_stay(bench: Bench) -> None:
    document = await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()
    bench.store.leases.lease_many("snapshotter", document.layer_names())

    bench.caches.delete("a")
    await bench.until(lambda: bench.store.bundles.ids() == [])
    await bench.rounds()

    assert set(bench.store.layers.names()) == document.layer_names()


async def test_a_label_or_a_selector_moves_a_cache(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A, selector=CPU))
    bench.start()
    await bench.until(lambda: bench.reporter.written)
    assert bench.entry() is None

    bench.nodes.set(Node("uid-1", {"pool": "cpu"}))
    await bench.ready()

    bench.caches.put(cache("a", A, selector=None))
    await bench.rounds()
    assert bench.state() is CacheState.READY  # a slip of the pen takes nothing away

    bench.caches.put(cache("a", A, selector=GPU))
    await bench.until(lambda: bench.entry() is None and not bench.attacher.records)


async def test_a_cache_of_another_platform_is_not_for_this_node(bench: Bench) -> None:
    arm64, amd64 = (Platform(os="linux", architecture=each) for each in ("arm64", "amd64"))
    await bench.origin.build(A, BASE)
    bench.nodes.node = Node("uid-1", {"pool": "gpu"}, amd64)
    bench.caches.put(cache("a", A, platforms=(arm64,)))
    bench.start()
    await bench.until(lambda: bench.reporter.written)
    await bench.rounds()
    assert bench.entry() is None
    assert not bench.remote.fetched

    bench.caches.put(cache("a", A, platforms=(amd64, arm64)))
    await bench.ready()

    bench.caches.put(cache("a", A, platforms=(arm64,)))
    await bench.until(lambda: bench.entry() is None and not bench.attacher.records)


async def test_an_update_serves_the_old_until_the_new_is_usable(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()
    old = bench.attacher.records[APP]
    await bench.origin.build(B, tar_of({"new": b"n"}))
    bench.remote.down = True

    bench.caches.put(cache("a", B))
    await bench.until(lambda: bench.reason() == "StoreUnreachable")
    assert bench.attacher.records[APP] == old
    assert bench.store.bundles.ids() == [A]

    bench.remote.down = False
    bench.advance(31)
    await bench.ready()
    await bench.until(lambda: bench.store.bundles.ids() == [B])
    assert bench.attacher.records[APP] != old


async def test_removed_records_are_made_again_but_not_in_a_loop(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()
    for count in (1, 2):
        bench.attacher.records.clear()
        bench.advance(31)
        await bench.until(lambda count=count: len(bench.attacher.attaches) == count + 1)  # type: ignore[misc]  # at once
        await bench.ready()

    bench.attacher.records.clear()
    bench.advance(31)
    await bench.until(lambda: bench.reason() == "RecordsRemoved")
    assert bench.state() is CacheState.PENDING
    assert bench.condition("RecordsRemoved") == ("True", "ImageCollection")
    bench.advance(3000)
    await bench.rounds()
    assert not bench.attacher.records

    bench.advance(700)
    await bench.ready()
    assert bench.condition("RecordsRemoved") == ("False", "AsExpected")


async def test_a_runtime_that_is_away(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.attacher.running = False
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.until(lambda: bench.reason() == "ContainerdUnavailable")
    assert bench.state() is CacheState.PENDING
    assert bench.condition("RuntimeReachable") == ("False", "ContainerdUnavailable")

    bench.attacher.running = True
    bench.advance(31)
    await bench.ready()
    bench.attacher.running = False
    bench.advance(31)
    await bench.until(lambda: bench.condition("RuntimeReachable") == ("False", "ContainerdUnavailable"))
    assert bench.state() is CacheState.READY

    bench.attacher.running = True
    bench.loop.wake()
    await bench.until(lambda: bench.condition("RuntimeReachable") == ("True", "AsExpected"))


async def test_what_an_administrator_must_fix_stays_failed_and_is_tried_again(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.attacher.failures[A] = ContainerdMisconfigured("no proxy plugin named imagecache", hint="run doctor")
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.until(lambda: bench.state() is CacheState.FAILED)
    entry = bench.entry()
    assert entry is not None
    assert (entry.reason, entry.message) == (
        "ContainerdMisconfigured",
        "no proxy plugin named imagecache; run doctor",
    )

    bench.attacher.failures.clear()
    bench.advance(11)
    await bench.ready()


async def test_a_layer_lost_from_the_disk_is_fetched_again(bench: Bench) -> None:
    document = await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()
    (name,) = document.layer_names()
    bench.store.layers.path(name).unlink()

    bench.loop.wake()

    await bench.until(lambda: bench.store.layers.has(name))
    await bench.ready()


async def test_a_damaged_bundle_is_fetched_again_or_removed(bench: Bench) -> None:
    for bundle_id, name in ((A, "app:1"), (B, "tool:2")):
        await bench.origin.build(bundle_id, BASE, name=name)
    bench.caches.put(cache("a", A), cache("b", B))
    bench.start()
    await bench.ready("a", "b")
    await bench.kill()
    for entry in bench.store.bundles.index().manifests:
        path = bench.store.paths.blob(entry.digest)
        path.chmod(0o600)
        path.write_bytes(b"rotten")
    bench.caches.delete("b")

    bench.start()

    await bench.ready()
    await bench.until(lambda: bench.store.bundles.ids() == [A])
    assert bench.store.bundles.get(A).id == A
    await bench.until(lambda: "docker.io/library/tool:2" not in bench.attacher.records)


class Surprising(FetchedLayerSource):
    """Meets a bug as long as it is ``broken``."""

    broken = True

    async def inventory(self, assigned: Mapping[str, Cache]) -> Inventory:
        if self.broken:
            raise RuntimeError("never thought of")
        return await super().inventory(assigned)


async def test_a_bug_is_reported_and_stops_nothing(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A))
    bench.source = source = Surprising(bench.store, bench.fetchers())
    bench.start()
    await bench.until(lambda: bench.condition("Ready") == ("False", "InternalError"))

    source.broken = False
    bench.loop.wake()
    await bench.ready()


async def test_a_store_that_cannot_be_read_is_reported(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A))
    index = bench.store.paths.index.read_bytes()
    bench.store.paths.index.unlink()
    bench.start()
    await bench.until(lambda: bench.condition("Ready") == ("False", "StoreCorrupt"))

    bench.store.paths.index.write_bytes(index)
    bench.loop.wake()
    await bench.ready()


async def test_foreign_bundles_are_left_alone(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()
    await bench.kill()
    bench.caches.delete("a")
    bench.store.paths.nodes.joinpath("worker", f"{A}.json").unlink()
    bench.source = FetchedLayerSource(bench.store, bench.fetchers(), lambda: frozenset({A}))

    bench.start()
    await bench.rounds()

    assert bench.store.bundles.ids() == [A]


async def test_a_document_of_another_image_is_refused(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    expected = replace(bench.remote.expected(A), digest=Digest.sha256(b"what the API server says"))
    bench.caches.put(cache("a", A, expected=expected))
    bench.start()

    await bench.until(lambda: bench.state() is CacheState.FAILED)

    assert bench.reason() == "DigestMismatch"
    assert not bench.remote.fetched


async def test_a_disk_that_refuses_the_state(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.start()
    await bench.until(lambda: bench.reporter.written)
    state = bench.store.paths.nodes / "worker"
    state.rmdir()
    state.touch()

    bench.caches.put(cache("a", A))
    await bench.until(lambda: bench.reason() == "StoreError")
    assert not bench.attacher.records  # never a record that nobody would take back

    state.unlink()
    state.mkdir()
    bench.advance(11)
    await bench.ready()
