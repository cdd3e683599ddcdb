from __future__ import annotations

import threading

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.errors import BlobNotFound, NotFound, StoreCorrupt
from imagecache.oci.descriptor import Descriptor
from imagecache.store.bundles import Bundles, Stored
from imagecache.store.documents import BundleDocuments
from imagecache.store.oci_layout import LayoutIndex
from imagecache.store.store import Store
from testkit.store import put_bundle

A, B = "imc-aaaaaaaaaaaaaaaaaaaa", "imc-bbbbbbbbbbbbbbbbbbbb"
BASE, APP = (DiffID(Digest.sha256(text)) for text in (b"base", b"app"))


@pytest.fixture
def documents(store: Store) -> BundleDocuments:
    return BundleDocuments(store.bundles)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read from the disk: ``index``, and ids of documents."""
    seen: list[str] = []
    index, load = Bundles.index, Bundles._load

    def counted_index(self: Bundles) -> LayoutIndex:
        seen.append("index")
        return index(self)

    def counted_load(self: Bundles, entry: Descriptor) -> Stored:
        stored = load(self, entry)
        seen.append(stored.document.id)
        return stored

    monkeypatch.setattr(Bundles, "index", counted_index)
    monkeypatch.setattr(Bundles, "_load", counted_load)
    return seen


def test_index_and_documents_are_read_once_for_each_version(
    store: Store, documents: BundleDocuments, reads: list[str]
) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    reads.clear()
    for _ in range(3):
        assert documents.ids() == (A,)
        assert documents.get(A).id == A
    assert reads == ["index", A]

    put_bundle(store, B, [APP], [b"app"])
    reads.clear()
    for _ in range(3):
        assert documents.ids() == (A, B)
        assert [documents.get(name).id for name in (A, B)] == [A, B]
    assert reads == ["index", A, B]


def test_what_was_read_may_stay_with_the_next_version(store: Store, reads: list[str]) -> None:
    documents = BundleDocuments(store.bundles, keep=True)
    put_bundle(store, A, [BASE], [b"base"])
    assert documents.get(A).id == A
    put_bundle(store, B, [APP], [b"app"])
    reads.clear()
    for _ in range(3):
        assert [documents.get(name).id for name in (A, B)] == [A, B]
    assert reads == ["index", B]
    store.bundles.delete(A)
    documents.ids()
    put_bundle(store, A, [BASE], [b"base"])
    reads.clear()
    assert documents.get(A).id == A
    assert reads == ["index", A], "a deleted one does not stay"


def test_damage_is_noticed_with_the_next_version(store: Store, documents: BundleDocuments) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    assert documents.get(A).id == A
    store.paths.blob(store.bundles.index().manifests[0].digest).unlink()
    put_bundle(store, B, [APP], [b"app"])
    with pytest.raises(BlobNotFound):
        documents.get(A)


def test_the_index_is_the_same_object_until_it_changes(store: Store, documents: BundleDocuments) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    before = documents.index()
    assert documents.index() is before
    store.bundles.delete(A)
    assert documents.index() is not before


def test_a_deleted_bundle_is_not_found(store: Store, documents: BundleDocuments) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    assert documents.get(A).id == A
    store.bundles.delete(A)
    with pytest.raises(NotFound):
        documents.get(A)
    put_bundle(store, A, [BASE], [b"base"])
    assert documents.get(A).id == A


def test_a_damaged_document_raises_each_time_and_hides_no_other(store: Store, documents: BundleDocuments) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    store.paths.blob(store.bundles.index().manifests[0].digest).unlink()
    put_bundle(store, B, [APP], [b"app"])
    for _ in range(2):
        with pytest.raises(BlobNotFound):
            documents.get(A)
    assert documents.ids() == (A, B)
    assert documents.get(B).id == B


def test_an_index_that_cannot_be_read_raises_until_it_can(store: Store, documents: BundleDocuments) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    assert documents.ids() == (A,)
    good = store.paths.index.read_bytes()
    store.paths.index.write_bytes(b"{")
    for _ in range(2):
        with pytest.raises(StoreCorrupt):
            documents.ids()
    store.paths.index.unlink()
    with pytest.raises(StoreCorrupt, match="is missing"):
        documents.ids()
    store.paths.index.write_bytes(good)
    assert documents.get(A).id == A


def test_a_document_that_vanished_with_a_change_of_the_index_is_looked_up_again(
    store: Store, documents: BundleDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process deletes the bundle and collects between our look at the index and at the document."""
    put_bundle(store, A, [BASE], [b"base"])
    load = Bundles.load

    def late(self: Bundles, entry: Descriptor) -> object:
        store.bundles.delete(A)
        store.collect()
        return load(self, entry)

    monkeypatch.setattr(Bundles, "load", late)
    with pytest.raises(NotFound):
        documents.get(A)


def test_many_threads_may_ask_while_bundles_come_and_go(store: Store, documents: BundleDocuments) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    problems: list[BaseException] = []
    stop = threading.Event()

    def ask() -> None:
        try:
            while not stop.is_set():
                assert documents.get(A).id == A
                assert A in documents.ids()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test must see it
            problems.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        put_bundle(store, B, [APP], [b"app"])
        store.bundles.delete(B)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
