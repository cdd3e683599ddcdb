from __future__ import annotations

import os
import stat

import pytest

from imagecache.digest import Digest
from imagecache.errors import BlobNotFound
from imagecache.store.model import LayerName, Space
from imagecache.store.store import Store
from imagecache.testing.store import put_layer

NAME = LayerName(space=Space.LAYERS, digest=Digest.sha256(b"layer"))
OTHER = LayerName(space=Space.CHAINS, digest=Digest.sha256(b"layer"))


def test_nothing_is_visible_before_the_commit(store: Store) -> None:
    with store.layers.stage() as staged:
        os.write(staged.fd, b"half")

        assert not store.layers.has(NAME)
        assert list(store.layers.names()) == []
        assert list(store.paths.layer_files()) == []


def test_a_committed_layer_is_there_for_good(store: Store) -> None:
    assert put_layer(store, NAME, b"image")

    assert store.layers.has(NAME)
    assert store.layers.size(NAME) == 5
    assert store.layers.path(NAME).read_bytes() == b"image"
    assert stat.S_IMODE(store.layers.path(NAME).stat().st_mode) == 0o400
    assert list(store.layers.names()) == [NAME]
    assert not store.layers.has(OTHER)


def test_the_first_commit_stays(store: Store) -> None:
    put_layer(store, NAME, b"first")
    inode = store.layers.path(NAME).stat().st_ino

    assert not put_layer(store, NAME, b"second")
    assert store.layers.path(NAME).read_bytes() == b"first"
    assert store.layers.path(NAME).stat().st_ino == inode


def test_the_descriptor_stays_readable_after_the_commit(store: Store) -> None:
    with store.layers.stage() as staged:
        os.write(staged.fd, b"image")
        staged.commit(NAME)

        assert os.pread(staged.fd, 5, 0) == b"image"


def test_the_size_of_a_missing_layer_is_an_error_that_names_it(store: Store) -> None:
    with pytest.raises(BlobNotFound, match=NAME.digest.hex):
        store.layers.size(NAME)


def test_one_maker_at_a_time(store: Store) -> None:
    with store.layers.lock(NAME):
        assert not store.layers.lock(NAME).try_acquire()
        with store.layers.lock(OTHER):
            pass
