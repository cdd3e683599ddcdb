from __future__ import annotations

import datetime as dt
import os

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.errors import BlobNotFound, StoreCorrupt
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.clock import FakeClock
from testkit.store import PROOFS, put_bundle, put_layer

A, B = "imc-aaaaaaaaaaaaaaaaaaaa", "imc-bbbbbbbbbbbbbbbbbbbb"
BASE, APP = (DiffID(Digest.sha256(text)) for text in (b"base", b"app"))


def name(diff_id: DiffID) -> LayerName:
    return LayerName(space=Space.LAYERS, digest=diff_id)


def partial(store: Store, clock: FakeClock, content: bytes, *, days_old: float) -> Digest:
    digest = Digest.sha256(content)
    with store.downloads.open(digest, 1 << 20) as download:
        download.write(content)
        path = download.path
    then = (clock.now() - dt.timedelta(days=days_old)).timestamp()
    os.utime(path, (then, then))
    return digest


def test_an_empty_store_has_nothing_to_collect(store: Store) -> None:
    collected = store.collect()

    assert (collected.layers, collected.blobs, collected.downloads) == ((), (), ())
    assert (collected.temporaries, collected.freed, collected.kept) == (0, 0, {})


def test_a_bundle_keeps_everything_that_it_names(store: Store) -> None:
    document = put_bundle(store, A, [BASE, APP], [b"base", b"app"])
    before = store.usage()

    collected = store.collect()

    assert (collected.layers, collected.blobs) == ((), ())
    assert collected.kept == {name(BASE): (f"bundle {A}",), name(APP): (f"bundle {A}",)}
    assert store.usage() == before
    assert store.bundles.get(A) == document


def test_a_deleted_bundle_goes_with_all_that_was_its_own(store: Store) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    kept = put_bundle(store, B, [BASE, APP], [b"base", b"app"])
    put_bundle(store, A + "2", [BASE], [b"base"])
    store.bundles.delete(B)
    before = store.usage()

    collected = store.collect()

    assert collected.layers == (name(APP),)
    assert kept.document_digests() <= set(collected.blobs)
    assert len(collected.blobs) == 4  # the artifact manifest, the bundle document, the image's manifest and config
    assert collected.freed == before.total - store.usage().total
    assert collected.kept == {name(BASE): (f"bundle {A}", f"bundle {A}2")}
    assert list(store.paths.trash.iterdir()) == []
    assert store.check(proofs=PROOFS).healthy


def test_the_last_bundle_leaves_an_empty_store(store: Store) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    store.bundles.delete(A)
    store.collect()

    assert store.usage().total == 0


def test_a_node_keeps_its_layers_until_it_lets_go(store: Store) -> None:
    put_bundle(store, A, [BASE, APP], [b"base", b"app"])
    store.leases.lease("node", name(BASE))
    store.bundles.delete(A)

    first = store.collect()
    store.leases.release("node", name(BASE))
    second = store.collect()

    assert first.layers == (name(APP),)
    assert first.kept == {name(BASE): ("leased by node",)}
    assert second.layers == (name(BASE),)


def test_a_build_keeps_what_it_leased_before_and_after_it_is_there(store: Store) -> None:
    with store.leases.build_lease([name(BASE)]) as lease:
        store.collect()
        put_layer(store, name(BASE), b"base")
        lease.add(digests=[Digest.sha256(b"document")])
        digest = store.blobs.put(b"document")

        collected = store.collect()

        assert (collected.layers, collected.blobs) == ((), ())
        assert [reason.split()[0] for reason in collected.kept[name(BASE)]] == ["build"]
        assert store.blobs.has(digest)
    assert store.collect().layers == (name(BASE),)


def test_a_dry_run_says_the_same_and_does_nothing(store: Store, clock: FakeClock) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    store.bundles.delete(A)
    partial(store, clock, b"part", days_old=8)
    (store.paths.staging / "dead.tmp").touch()
    before = store.usage()

    said = store.collect(dry_run=True)

    assert store.usage() == before
    assert store.collect() == said
    assert said.layers == (name(BASE),)
    assert said.freed > 0


def test_partial_downloads_wait_for_their_build(store: Store, clock: FakeClock) -> None:
    old = partial(store, clock, b"old", days_old=8)
    young = partial(store, clock, b"young", days_old=6)

    assert store.collect().downloads == (old,)
    assert [digest for _path, digest in store.paths.download_files()] == [young]
    assert store.collect(keep_downloads=dt.timedelta()).downloads == (young,)


def test_a_download_in_use_stays(store: Store, clock: FakeClock) -> None:
    digest = partial(store, clock, b"old", days_old=8)
    with store.downloads.open(digest, 1 << 20):
        assert store.collect().downloads == ()
    with store.leases.build_lease(digests=[digest]):
        assert store.collect().downloads == ()
    assert store.collect().downloads == (digest,)


def test_a_download_whose_layer_is_in_a_bundle_goes(store: Store, clock: FakeClock) -> None:
    document = put_bundle(store, A, [BASE], [b"base"])
    digest = partial(store, clock, b"compressed base", days_old=0)

    assert document.images[0].layers[0].blob.digest == digest
    assert store.collect().downloads == (digest,)


def test_temporaries_go_when_their_writer_is_dead(store: Store) -> None:
    for path in (store.paths.staging / "a.tmp", store.root / ".index.json.1.tmp", store.paths.caches / ".x.1.tmp"):
        path.write_bytes(b"half")
    with store.layers.stage() as staged:
        assert store.collect().temporaries == 3
        assert staged.path.exists()


def test_trash_of_a_killed_collection_is_emptied(store: Store) -> None:
    (store.paths.trash / "x").touch()
    store.collect()

    assert list(store.paths.trash.iterdir()) == []


def test_locks_of_layers_go_unless_somebody_has_them(store: Store) -> None:
    with store.layers.lock(name(BASE)):
        store.layers.lock(name(APP)).try_acquire()
        with store.layers.lock(name(DiffID(Digest.sha256(b"done")))):
            pass
        store.collect()

        assert set(store.paths.layer_locks()) == {store.paths.layer_lock(name(each)) for each in (BASE, APP)}


def test_foreign_files_and_the_quarantine_are_left_alone(store: Store) -> None:
    foreign = [store.root / each for each in ("layers/note", "blobs/sha256/note", "quarantine/x", "note")]
    for path in foreign:
        path.touch()
    store.collect()

    assert all(path.exists() for path in foreign)


def test_nothing_goes_when_a_bundle_cannot_be_read(store: Store) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    put_layer(store, name(APP), b"garbage")
    store.paths.blob(store.bundles.index().manifests[0].digest).unlink()

    with pytest.raises(BlobNotFound):
        store.collect()
    assert store.layers.has(name(APP))

    store.bundles.delete(A)
    assert set(store.collect().layers) == {name(BASE), name(APP)}


def test_nothing_goes_when_the_index_is_lost(store: Store) -> None:
    put_bundle(store, A, [BASE], [b"base"])
    store.paths.index.unlink()

    with pytest.raises(StoreCorrupt):
        store.collect()
    assert store.layers.has(name(BASE))
