"""What the suite does not see: how often documents are read, and what is damaged."""

from __future__ import annotations

import pytest
from msgspec import structs

from imagecache.digest import ChainID, DiffID, Digest
from imagecache.oci.descriptor import Descriptor
from imagecache.store.bundles import Bundles, Stored
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.store import put_bundle, put_layer

A, B = "imc-aaaaaaaaaaaaaaaaaaaa", "imc-bbbbbbbbbbbbbbbbbbbb"
BASE, APP = (DiffID(Digest.sha256(text)) for text in (b"base", b"app"))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cache ids of the documents that were read."""
    read: list[str] = []
    load = Bundles._load

    def counted(self: Bundles, entry: Descriptor) -> Stored:
        stored = load(self, entry)
        read.append(stored.document.id)
        return stored

    monkeypatch.setattr(Bundles, "_load", counted)
    return read


def test_documents_are_read_once(store: Store, loads: list[str]) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    for _ in range(3):
        assert store.provider.lookup(ChainID(BASE)) is not None
    put_bundle(store, B, [APP], [b"app"])
    for _ in range(3):
        assert store.provider.lookup(ChainID(APP)) is not None
    store.bundles.delete(A)
    assert store.provider.lookup(ChainID(BASE)) is None

    assert loads == [A, B]


def test_a_damaged_bundle_does_not_hide_the_others(store: Store) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    store.paths.blob(store.bundles.index().manifests[0].digest).unlink()
    put_bundle(store, B, [APP], [b"app"])

    assert store.provider.lookup(ChainID(APP)) is not None
    assert store.provider.lookup(ChainID(BASE)) is None


def test_a_damaged_index_serves_what_was_known(store: Store) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    assert store.provider.lookup(ChainID(BASE)) is not None

    store.paths.index.write_bytes(b"{")
    assert store.provider.lookup(ChainID(BASE)) is not None
    store.paths.index.unlink()
    assert store.provider.lookup(ChainID(BASE)) is not None
    assert store.provider.lookup(ChainID(APP)) is None


def test_another_file_for_the_same_place_serves_when_the_first_is_lost(store: Store) -> None:
    """One bundle has a layer by diffID, another has the same place by chainID."""
    document = put_bundle(store, A, [BASE], [b"base"])
    image, layer = document.images[0], document.images[0].layers[0]
    chain = LayerName(space=Space.CHAINS, digest=BASE)
    second = structs.replace(image, layers=(structs.replace(layer, name=chain),))
    put_layer(store, chain, b"base")
    store.bundles.put(structs.replace(document, id=B, images=(second,)))

    served = [store.provider.lookup(ChainID(BASE))]
    store.layers.path(layer.name).unlink()
    served.append(store.provider.lookup(ChainID(BASE)))

    assert [each and each.name for each in served] == [layer.name, chain]


TEAM, OTHER = "registry.example.com/team/app", "docker.io/library/busybox"


def served(store: Store, layer: DiffID) -> dict[str, bool]:
    """For a pull of each repository, and for one that nobody says."""
    return {name: store.provider.lookup(ChainID(layer), name) is not None for name in (TEAM, OTHER, "")}


def test_a_chain_of_private_images_is_for_pulls_of_their_repositories(store: Store) -> None:
    """Who knows nothing but the diffIDs must not run it."""
    put_bundle(store, A, [BASE, APP], [b"base", b"app"], reference=f"{TEAM}:1", private=True)

    assert served(store, BASE) == {TEAM: True, OTHER: False, "": True}


def test_a_chain_that_a_public_image_has_too_is_for_everybody(store: Store) -> None:
    put_bundle(store, A, [BASE, APP], [b"base", b"app"], reference=f"{TEAM}:1", private=True)
    put_bundle(store, B, [BASE], [b"base"])

    assert served(store, BASE) == {TEAM: True, OTHER: True, "": True}
    store.bundles.delete(B)
    assert served(store, BASE) == {TEAM: True, OTHER: False, "": True}
