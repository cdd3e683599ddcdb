from __future__ import annotations

import threading

import msgspec
import pytest

from imagecache.digest import DiffID, Digest
from imagecache.errors import AlreadyExists, BlobNotFound, NotFound, StoreCorrupt
from imagecache.store.bundles import Bundles
from imagecache.store.oci_layout import LayoutIndex
from imagecache.store.store import Store
from testkit.store import bundle_document, put_bundle, put_layer

A, B = "imc-aaaaaaaaaaaaaaaaaaaa", "imc-bbbbbbbbbbbbbbbbbbbb"
BASE = DiffID(Digest.sha256(b"base"))


def test_what_was_put_is_got_by_every_opener(store: Store) -> None:
    document = put_bundle(store, A, [BASE], [b"image"])

    other = Store.open(store.root)
    assert other.bundles.get(A) == document
    assert other.bundles.all() == [document]
    assert other.bundles.ids() == [A]


def test_a_new_store_has_no_bundles(store: Store) -> None:
    assert store.bundles.all() == []
    with pytest.raises(NotFound, match=A):
        store.bundles.get(A)


def test_putting_the_same_again_changes_nothing(store: Store) -> None:
    put_bundle(store, A, [BASE], [b"image"])
    before = store.paths.index.stat()
    put_bundle(store, A, [BASE], [b"image"])

    assert store.paths.index.stat() == before


def test_another_bundle_of_the_same_id_is_refused(store: Store) -> None:
    put_bundle(store, A, [BASE], [b"image"])
    with pytest.raises(AlreadyExists, match=A):
        put_bundle(store, A, [], [])

    assert len(store.bundles.get(A).images[0].layers) == 1


def test_a_bundle_whose_layer_is_missing_is_refused(store: Store) -> None:
    document = bundle_document(A, [BASE], [b"image"], config=b"c", manifest=b"m")
    store.blobs.put(b"c")
    store.blobs.put(b"m")
    with pytest.raises(BlobNotFound, match=BASE.hex):
        store.bundles.put(document)

    assert store.bundles.ids() == []


def test_a_bundle_whose_document_is_missing_is_refused(store: Store) -> None:
    document = bundle_document(A, [BASE], [b"image"], config=b"c", manifest=b"m")
    put_layer(store, document.images[0].layers[0].name, b"image")
    store.blobs.put(b"c")
    with pytest.raises(BlobNotFound, match=Digest.sha256(b"m").hex):
        store.bundles.put(document)


def test_a_deleted_bundle_is_not_listed_and_nothing_else_happens(store: Store) -> None:
    put_bundle(store, A, [BASE], [b"image"])
    put_bundle(store, B, [BASE], [b"image"])
    blobs = [path for path, _digest in store.paths.blob_files()]

    store.bundles.delete(A)

    assert store.bundles.ids() == [B]
    assert [path for path, _digest in store.paths.blob_files()] == blobs
    with pytest.raises(NotFound):
        store.bundles.delete(A)


def test_a_damaged_bundle_is_an_error_and_can_be_deleted(store: Store) -> None:
    put_bundle(store, A, [], [])
    entry = store.bundles.index().manifests[0]
    store.paths.blob(entry.digest).unlink()
    with pytest.raises(BlobNotFound, match=entry.digest.hex):
        store.bundles.all()

    store.bundles.delete(A)

    assert store.bundles.all() == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"manifests": [{"mediaType": "x", "size": 1, "digest": "md5:00"}]}', '{"manifests": 1}', "\xff"],
)
def test_a_damaged_index_is_an_error_that_names_it(store: Store, text: str) -> None:
    store.paths.index.write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreCorrupt, match=r"index\.json"):
        store.bundles.all()


def test_a_lost_index_is_not_an_empty_store(store: Store) -> None:
    store.paths.index.unlink()

    with pytest.raises(StoreCorrupt, match=r"index\.json"):
        Store.open(store.root).bundles.all()


def test_a_manifest_of_something_else_is_no_bundle(store: Store) -> None:
    put_bundle(store, A, [], [])
    index = msgspec.json.decode(store.paths.index.read_bytes())
    index["manifests"][0]["digest"] = store.blobs.put(
        b'{"artifactType":"application/x","config":{"mediaType":"x","size":2,"digest":"'
        + Digest.sha256(b"{}").encode()
        + b'"},"layers":[]}'
    )
    store.paths.index.write_bytes(msgspec.json.encode(index, enc_hook=str))
    with pytest.raises(StoreCorrupt, match="not the manifest of a bundle"):
        store.bundles.get(A)


def test_every_version_of_the_index_has_its_own_time(store: Store) -> None:
    times = [store.paths.index.stat().st_mtime_ns]
    for number in range(20):
        put_bundle(store, f"imc-{number:020d}", [], [])
        times.append(store.paths.index.stat().st_mtime_ns)

    assert times == sorted(set(times))


def test_writers_at_once_lose_nothing(store: Store) -> None:
    ids = [f"imc-{number:020d}" for number in range(12)]
    threads = [threading.Thread(target=put_bundle, args=(Store.open(store.root), each, [], [])) for each in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(store.bundles.ids()) == ids


class StaleOnce(Bundles):
    """Reads an index that is out of date, once: a deletion and a collection came right after the first reading."""

    stale: LayoutIndex | None = None

    def index(self) -> LayoutIndex:
        found, self.stale = self.stale or super().index(), None
        return found


def test_a_reader_beside_a_collection_sees_what_is_left(store: Store) -> None:
    put_bundle(store, A, [], [])
    kept = put_bundle(store, B, [], [])
    reader = StaleOnce(store.paths, store.blobs)
    reader.stale = store.bundles.index()
    store.bundles.delete(A)
    store.collect()

    assert reader.all() == [kept]
