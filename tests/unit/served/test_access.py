"""Which node may read what of a store: a real store behind a real server, and a table of who is selected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.errors import BlobNotFound, StoreBusy, StoreRefused, StoreUnreachable
from imagecache.oci.descriptor import Descriptor
from imagecache.served.access import Access
from imagecache.served.authenticator import Caller
from imagecache.served.store_client import StoreClient
from imagecache.served.store_reader import StoreReader
from imagecache.store.bundle_document import Bundle, build_name
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.partial_layer import NO_HEAD, PartialLayerWriter
from testkit.served import AGENT, Served
from testkit.store import put_bundle

PRIVATE, PUBLIC, BUILT = (f"imc-{letter * 20}" for letter in "abc")
SECRET, SHARED = b"of the private image alone", b"of both images"


@dataclass
class Selected:
    """``NodeCaches``: which bundle is for which node."""

    pairs: set[tuple[str, str]] = field(default_factory=lambda: {("mine", PRIVATE), ("mine", BUILT)})
    known: bool = True

    def has(self, node: str, bundle_id: str) -> bool:
        if not self.known:
            raise StoreBusy("not known yet")
        return (node, bundle_id) in self.pairs


class CountingReader(StoreReader):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.loaded: list[str] = []

    def load(self, entry: Descriptor) -> Bundle:
        document = super().load(entry)
        self.loaded.append(document.id)
        return document


def put(store: Store, bundle_id: str, contents: Sequence[bytes], *, private: bool = False) -> Bundle:
    return put_bundle(store, bundle_id, [DiffID(Digest.sha256(each)) for each in contents], contents, private=private)


def named(content: bytes) -> LayerName:
    return LayerName(space=Space.LAYERS, digest=Digest.sha256(content))


async def read(client: StoreClient, content: bytes) -> bytes:
    found = bytearray(len(content))
    await client.layer(named(content), 0, memoryview(found))
    return bytes(found)


@pytest.fixture
def selected() -> Selected:
    return Selected()


@pytest.fixture
async def served(store: Store, tmp_path: Path, selected: Selected) -> AsyncIterator[Served]:
    put(store, PRIVATE, [SHARED, SECRET], private=True)
    put(store, PUBLIC, [SHARED])
    async with Served(store.root, tmp_path / "served", caches=selected) as running:
        yield running


def client(served: Served, node: str) -> StoreClient:
    """Of the agent on this node; "" where the API server does not name nodes."""
    served.reviewer.users[f"token-{node}"] = Caller(AGENT, node)
    served.token_file.write_text(f"token-{node}")
    return served.client()


@pytest.mark.parametrize("node", ["mine", ""])
async def test_a_node_reads_what_the_caches_for_it_have(served: Served, store: Store, node: str) -> None:
    async with client(served, node) as mine:
        document = await mine.bundle(PRIVATE)
        assert await read(mine, SECRET) == SECRET
        assert await read(mine, SHARED) == SHARED
        for digest in store.bundles.get(PRIVATE).document_digests():
            await mine.document(digest)
    assert PRIVATE.encode() in document


async def test_another_node_reads_nothing_of_a_private_image(served: Served, store: Store) -> None:
    async with client(served, "other") as other:
        with pytest.raises(StoreRefused, match=f"does not give this node bundle {PRIVATE}: it is of a private image"):
            await other.bundle(PRIVATE)
        with pytest.raises(StoreRefused):
            await read(other, SECRET)
        with pytest.raises(StoreRefused):
            await other.block(named(SECRET), 0, memoryview(bytearray(len(SECRET))))
        for digest in store.bundles.get(PRIVATE).document_digests():
            with pytest.raises(StoreRefused):
                await other.document(digest)


async def test_what_a_public_image_has_too_is_everybodys(served: Served, store: Store) -> None:
    async with client(served, "other") as other:
        await other.bundle(PUBLIC)
        assert await read(other, SHARED) == SHARED
        for digest in store.bundles.get(PUBLIC).document_digests():
            await other.document(digest)
        store.bundles.delete(PUBLIC)
        with pytest.raises(StoreRefused):
            await read(other, SHARED)


async def test_of_a_build_only_its_own_nodes_read(served: Served, store: Store) -> None:
    """Whether it is private is known at its end."""
    new = NO_HEAD + b"x" * 5000
    with (
        store.leases.build_lease([named(new), named(SECRET)], build=build_name(BUILT, "amd64")),
        PartialLayerWriter(store, named(new)) as layer,
    ):
        layer.write(new)
        found = bytearray(100)
        async with client(served, "mine") as mine:
            assert named(new) in await mine.building(BUILT, "amd64")
            assert (await mine.partial(named(new), 0, memoryview(found))).count == 100
        async with client(served, "other") as other:
            with pytest.raises(StoreRefused):
                await other.building(BUILT, "amd64")
            with pytest.raises(StoreRefused):
                await other.partial(named(new), 0, memoryview(found))


async def test_a_layer_of_somebody_elses_private_image_that_a_build_for_this_node_uses(
    served: Served, store: Store, selected: Selected
) -> None:
    selected.pairs = {("third", BUILT)}
    with store.leases.build_lease([named(SECRET)], build=build_name(BUILT, "amd64")):
        async with client(served, "third") as third:
            assert await read(third, SECRET) == SECRET


async def test_what_a_deleted_private_image_has_left_is_nobodys(served: Served, store: Store) -> None:
    document = store.bundles.get(PRIVATE)
    store.bundles.delete(PRIVATE)
    async with client(served, "mine") as mine:
        with pytest.raises(BlobNotFound):
            await read(mine, SECRET)
        with pytest.raises(BlobNotFound):
            await mine.document(document.images[0].config.digest)


async def test_while_nobody_knows_the_nodes_they_wait(served: Served, selected: Selected) -> None:
    selected.known = False
    async with client(served, "mine") as mine:
        await mine.bundle(PUBLIC)
        with pytest.raises(StoreUnreachable):
            await mine.bundle(PRIVATE)


async def test_a_damaged_bundle_keeps_nobody_from_the_others(served: Served, store: Store) -> None:
    for entry in store.bundles.index().manifests:
        if PUBLIC in entry.annotations.values():
            (store.root / "blobs/sha256" / entry.digest.hex).write_bytes(b"damaged")

    async with client(served, "mine") as mine:
        assert await read(mine, SECRET) == SECRET


async def test_each_bundle_is_read_once(store: Store) -> None:
    put(store, PRIVATE, [SECRET], private=True)
    reader = CountingReader(store.root)
    access = Access(reader, Selected())
    for bundle_id in (PUBLIC, BUILT):
        put(store, bundle_id, [SHARED])
        access.layer(Caller(AGENT, "mine"), named(SHARED))

    assert reader.loaded == [PRIVATE, PUBLIC, BUILT]
