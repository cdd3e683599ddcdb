from __future__ import annotations

import hashlib
import stat

import pytest

from imagecache.digest import Digest
from imagecache.errors import BlobNotFound, DigestMismatch, StoreCorrupt
from imagecache.store.blobs import Blobs
from imagecache.store.store import Store


def spoil(store: Store, digest: Digest, data: bytes) -> None:
    path = store.paths.blob(digest)
    path.unlink()
    path.write_bytes(data)


def test_what_was_put_is_read(store: Store) -> None:
    digest = store.blobs.put(b"document")

    assert digest == Digest.sha256(b"document")
    assert store.blobs.has(digest)
    assert store.blobs.read(digest) == b"document"
    assert stat.S_IMODE(store.paths.blob(digest).stat().st_mode) == 0o400


def test_putting_twice_changes_nothing(store: Store) -> None:
    digest = store.blobs.put(b"document")
    inode = store.paths.blob(digest).stat().st_ino

    assert store.blobs.put(b"document") == digest
    assert store.paths.blob(digest).stat().st_ino == inode


def test_other_algorithms_are_kept_under_their_own_name(store: Store) -> None:
    digest = Digest("sha512:" + hashlib.sha512(b"document").hexdigest())
    store.blobs.put_verified(b"document", digest)

    assert store.blobs.read(digest) == b"document"


def test_put_verified_refuses_other_content(store: Store) -> None:
    digest = Digest.sha256(b"document")
    with pytest.raises(DigestMismatch, match=digest.hex):
        store.blobs.put_verified(b"something else", digest)

    assert not store.blobs.has(digest)


def test_a_missing_blob_is_named(store: Store) -> None:
    digest = Digest.sha256(b"document")

    assert not store.blobs.has(digest)
    with pytest.raises(BlobNotFound, match=digest.hex):
        store.blobs.read(digest)


def test_a_corrupt_blob_is_never_returned_and_set_aside(store: Store) -> None:
    digest = store.blobs.put(b"document")
    spoil(store, digest, b"dokument")

    with pytest.raises(StoreCorrupt, match="quarantine"):
        store.blobs.read(digest)

    assert [path.read_bytes() for path in store.paths.quarantine.iterdir()] == [b"dokument"]
    with pytest.raises(BlobNotFound):
        store.blobs.read(digest)


def test_without_quarantine_a_corrupt_blob_stays(store: Store) -> None:
    digest = store.blobs.put(b"document")
    spoil(store, digest, b"dokument")

    with pytest.raises(StoreCorrupt):
        Blobs(store.paths, quarantine=False).read(digest)

    assert store.paths.blob(digest).read_bytes() == b"dokument"


def test_putting_heals_a_corrupt_blob(store: Store) -> None:
    digest = store.blobs.put(b"document")
    spoil(store, digest, b"docu")

    store.blobs.put(b"document")

    assert store.blobs.read(digest) == b"document"
    assert [path.read_bytes() for path in store.paths.quarantine.iterdir()] == [b"docu"]
