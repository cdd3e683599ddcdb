"""The agent's loop on a store that it shares with the controller."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from imagecache.agent.layer_source import DescribedLayerSource, SharedLayerSource, expectation
from imagecache.api.nodes import CacheState
from imagecache.containerd.also_unpack import AlsoUnpacker
from imagecache.containerd.attach import AttachSettings, NodeAttacher
from imagecache.containerd.prepull import Prepuller
from imagecache.digest import Digest
from imagecache.fetch.bundle import describe
from imagecache.fetch.tars import RemoteTars
from imagecache.settings.choices import Mode
from imagecache.store.store import Store
from testkit.agent_dependencies import FakeRuntime
from testkit.containerd import MemoryContainerd
from testkit.images import tar_of
from testkit.images_oci import AMD64
from tests.unit.agent.bench import Bench, cache

A, B, C = (f"imc-{letter * 20}" for letter in "abc")
BASE = tar_of({"etc": None, "etc/base": b"b" * 300_000})
APP = "docker.io/library/app:1"


async def test_a_shared_store_is_only_read(bench: Bench) -> None:
    shared = Store.open(bench.origin.root)
    bench.source = SharedLayerSource(shared, AMD64)
    document = await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A), cache("b", B))
    bench.start()
    await bench.ready()
    await bench.until(lambda: bench.reason("b") == "NotFound")
    assert not list(bench.store.layers.names())
    assert bench.status.capacity_bytes == 0

    bench.caches.delete("a")
    shared.bundles.delete(A)

    await bench.until(lambda: APP not in bench.attacher.records)
    await bench.until(lambda: bench.entry() is None)
    assert set(shared.layers.names()) == document.layer_names()


async def test_a_shared_store_that_lost_a_layer(bench: Bench) -> None:
    shared = Store.open(bench.origin.root)
    bench.source = SharedLayerSource(shared, AMD64)
    document = await bench.origin.build(A, BASE)
    (name,) = document.layer_names()
    shared.layers.path(name).unlink()
    bench.caches.put(cache("a", A))
    bench.start()

    await bench.until(lambda: bench.reason() == "BlobNotFound")

    assert not bench.attacher.records


async def test_a_sealed_layer_image_of_a_shared_store_that_was_replaced(bench: Bench) -> None:
    """Here no file is sealed, so that none has the digest that the document wants of the kernel."""
    shared = Store.open_shared(bench.origin.root)
    bench.source = SharedLayerSource(shared, AMD64)
    document = await bench.origin.build(A, BASE)
    image = document.images[0]
    layers = tuple(msgspec.structs.replace(layer, verity=Digest.sha256(b"sealed")) for layer in image.layers)
    sealed = msgspec.structs.replace(document, images=(msgspec.structs.replace(image, layers=layers),))
    shared.bundles.delete(A)
    shared.bundles.put(sealed)
    bench.remote.bundles[A] = sealed
    bench.caches.put(cache("a", A))
    bench.start()

    await bench.until(lambda: bench.reason() == "BlobNotFound")

    assert not bench.attacher.records


async def test_a_document_that_somebody_else_puts_into_a_shared_store(bench: Bench) -> None:
    """The node keeps what it has attached, and makes nothing of the other one; containerd gets no layer of it."""
    shared = Store.open_shared(bench.origin.root)
    bench.source = SharedLayerSource(shared, AMD64)
    document = await bench.origin.build(A, BASE)
    told = bench.remote.expected(A)
    chain = document.images[0].layers[0].chain_id
    assert shared.provider.lookup(chain) is None
    bench.caches.put(cache("a", A, expected=told))
    bench.start()
    await bench.ready()
    records = dict(bench.attacher.records)
    assert shared.provider.lookup(chain) is not None

    shared.bundles.delete(A)
    evil = await bench.origin.build(A, tar_of({"evil": b"evil"}))
    bench.loop.wake()

    await bench.until(lambda: bench.reason() == "DigestMismatch")
    assert bench.attacher.records == records
    assert bench.attacher.attaches == [A]
    assert shared.provider.lookup(evil.images[0].layers[0].chain_id) is None


# prepull mode


def described(bench: Bench) -> DescribedLayerSource:
    return DescribedLayerSource(lambda each: describe(bench.remote, expectation(each), AMD64))


async def test_prepull_mode_needs_no_layer(bench: Bench) -> None:
    bench.source = described(bench)
    document = await bench.origin.build(A, BASE)
    runtime = FakeRuntime({APP: "sha256:app"})
    bench.runtime = Prepuller(runtime)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()
    assert bench.status.mode == "prepull"
    assert runtime.images == {APP: "sha256:app"}
    assert not bench.remote.fetched

    await bench.kill()
    bench.caches.delete("a")
    bench.start()
    await bench.until(lambda: not runtime.images)
    assert document.id not in bench.store.bundles.ids()


async def test_prepull_mode_unpacks_what_the_store_has(bench: Bench) -> None:
    source = bench.source = described(bench)
    document = await bench.origin.build(A, BASE)
    containerd, settings = MemoryContainerd(), AttachSettings(mode=Mode.PREPULL)
    unpacker = AlsoUnpacker(RemoteTars(bench.remote, lambda _size: None), bench.clock)
    attacher = NodeAttacher(containerd, source, bench.clock, settings, unpacker=unpacker)
    runtime = FakeRuntime(images={APP: "sha256:app"})  # what CRI says afterwards
    bench.runtime = Prepuller(runtime, (), attacher)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()

    (layer,) = document.images[0].layers
    space = containerd.spaces["k8s.io"]
    assert APP in space.images
    assert list(space.committed) == [("overlayfs", layer.chain_id)]
    assert bench.remote.fetched == {layer.name: layer.tar_size}
    assert not runtime.pulls
    assert not list(bench.store.layers.names())


async def test_prepull_mode_takes_no_other_image_than_the_cache_has(bench: Bench) -> None:
    bench.source = described(bench)
    await bench.origin.build(A, BASE)
    bench.runtime = Prepuller(FakeRuntime({APP: "sha256:app"}))
    bench.caches.put(cache("a", A, expected=replace(bench.remote.expected(A), digest=Digest.sha256(b"another"))))
    bench.start()
    await bench.until(lambda: bench.reason() == "DigestMismatch")


async def test_a_private_image_is_not_for_every_pod(bench: Bench) -> None:
    bench.source = described(bench)
    document = await bench.origin.build(A, BASE)
    private = msgspec.structs.replace(document.images[0], private=True)
    bench.remote.bundles[A] = msgspec.structs.replace(document, images=(private,))
    bench.runtime = Prepuller(FakeRuntime({APP: "sha256:app"}))
    bench.caches.put(cache("a", A))
    bench.start()

    await bench.until(lambda: bench.state() is CacheState.FAILED)

    entry = bench.entry()
    assert entry is not None
    assert entry.reason == "ImageWithheld"
    assert "allow_private_names" in entry.message
