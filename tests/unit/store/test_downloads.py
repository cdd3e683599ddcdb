from __future__ import annotations

import os

import pytest

from imagecache.digest import Digest
from imagecache.errors import StoreBusy
from imagecache.store.store import Store

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
