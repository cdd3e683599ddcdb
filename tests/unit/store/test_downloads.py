from __future__ import annotations

import os

import pytest

from imagecache.digest import Digest
from imagecache.errors import StoreBusy
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.store import put_layer

DIGEST = Digest.sha256(b"0123456789")


def test_a_download_goes_on_where_it_stopped(store: Store) -> None:
    with store.downloads.open(DIGEST, 10) as download:
        assert download.offset == 0
        download.write(b"0123")

    with store.downloads.open(DIGEST, 10) as download:
        assert download.offset == 4
        assert not download.complete
        download.write(b"456789")
        assert download.complete
        assert os.pread(download.fd, 99, 0) == b"0123456789"


def test_one_process_at_a_time(store: Store) -> None:
    with store.downloads.open(DIGEST, 10), pytest.raises(StoreBusy, match=DIGEST.hex):
        store.downloads.open(DIGEST, 10, wait=False)


def test_a_blob_is_never_longer_than_it_should_be(store: Store) -> None:
    with store.downloads.open(DIGEST, 10) as download:
        download.write(b"01234567")
        with pytest.raises(ValueError, match="10 bytes"):
            download.write(b"890")
        assert download.offset == 8


def test_what_is_too_long_begins_again(store: Store) -> None:
    with store.downloads.open(DIGEST, 10) as download:
        download.write(b"0123456789")

    with store.downloads.open(DIGEST, 5) as download:
        assert download.offset == 0
        assert download.path.stat().st_size == 0


def test_a_discarded_download_is_gone(store: Store) -> None:
    with store.downloads.open(DIGEST, 10) as download:
        download.write(b"0123")
        download.discard()
        assert download.offset == 0

    assert list(store.paths.downloads.iterdir()) == []
    with store.downloads.open(DIGEST, 10) as download:
        assert download.offset == 0


def test_a_complete_download_becomes_a_layer_image_without_a_copy(store: Store) -> None:
    content = b"layer image" * 1000
    name = LayerName(space=Space.LAYERS, digest=Digest.sha256(b"its tar"))
    with store.downloads.open(Digest.sha256(content), len(content)) as download:
        download.write(content)
        inode = download.path.stat().st_ino
        with store.layers.adopt(download) as staged:
            assert not download.path.exists()
            assert staged.commit(name)

    found = store.layers.path(name)
    assert found.read_bytes() == content
    assert (found.stat().st_ino, found.stat().st_nlink, found.stat().st_mode & 0o777) == (inode, 1, 0o400)
    assert not list(store.paths.staging.iterdir())


def test_a_download_whose_layer_is_there_already_goes(store: Store) -> None:
    name = LayerName(space=Space.LAYERS, digest=Digest.sha256(b"its tar"))
    put_layer(store, name, b"first")
    with store.downloads.open(Digest.sha256(b"other"), 5) as download:
        download.write(b"other")
        with store.layers.adopt(download) as staged:
            assert not staged.commit(name)

    assert store.layers.path(name).read_bytes() == b"first"
    assert not list(store.paths.downloads.iterdir())
    assert not list(store.paths.staging.iterdir())
