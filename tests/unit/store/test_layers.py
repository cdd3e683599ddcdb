from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from imagecache.digest import Digest
from imagecache.errors import BlobNotFound, StoreError
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.store import put_layer

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


def looked_at(store: Store, name: LayerName = NAME) -> bytes | None:
    """What there is of a layer image that somebody makes."""
    fd = store.layers.open_partial(name)
    if fd is None:
        return None
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
        return file.read()


def test_what_nobody_makes_is_not_growing(store: Store) -> None:
    assert looked_at(store) is None
    with store.layers.lock(NAME), store.layers.stage():
        assert looked_at(store) is None


def test_an_announced_layer_is_looked_at_while_it_grows(store: Store) -> None:
    with store.layers.lock(NAME) as lock, store.layers.stage() as staged:
        store.layers.announce(lock, staged)
        assert looked_at(store) == b""
        os.write(staged.fd, b"half ")
        assert looked_at(store) == b"half "
        os.write(staged.fd, b"and half")

        assert looked_at(store) == b"half and half"
        assert looked_at(store, OTHER) is None
        assert not store.layers.has(NAME)


def test_nobody_can_write_to_what_he_looks_at(store: Store) -> None:
    with store.layers.lock(NAME) as lock, store.layers.stage() as staged:
        store.layers.announce(lock, staged)
        fd = store.layers.open_partial(NAME)
        assert fd is not None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd, b"x")
        os.close(fd)


def test_a_committed_layer_grows_no_more(store: Store) -> None:
    with store.layers.lock(NAME) as lock, store.layers.stage() as staged:
        store.layers.announce(lock, staged)
        os.write(staged.fd, b"image")
        fd = store.layers.open_partial(NAME)
        assert fd is not None
        staged.commit(NAME)

        assert looked_at(store) is None
        assert os.pread(fd, 9, 0) == b"image"
        os.close(fd)
    assert looked_at(store) is None


def test_a_layer_that_was_given_up_grows_no_more(store: Store) -> None:
    with store.layers.lock(NAME) as lock, store.layers.stage() as staged:
        store.layers.announce(lock, staged)

    assert looked_at(store) is None


def test_the_next_maker_is_looked_at(store: Store) -> None:
    for content in (b"first", b"second"):
        with store.layers.lock(NAME) as lock, store.layers.stage() as staged:
            store.layers.announce(lock, staged)
            os.write(staged.fd, content)

            assert looked_at(store) == content


def test_what_a_dead_maker_left_is_still_looked_at(store: Store) -> None:
    """Until a collection removes it: whoever looks cannot tell, and need not."""
    remains = store.paths.staging / ("f" * 32 + ".tmp")
    remains.write_bytes(b"half")
    with store.layers.lock(NAME) as lock:
        lock.note(remains.name)

    assert looked_at(store) == b"half"
    remains.unlink()
    assert looked_at(store) is None


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"\xff\xfe",
        b"../../etc/passwd",
        b"x.tmp",
        b"0" * 32,
        b"0" * 32 + b".tmp\n",
        b"../staging/" + b"0" * 32 + b".tmp",
    ],
)
def test_a_lock_file_with_foreign_words_names_nothing(store: Store, words: bytes) -> None:
    (store.paths.staging / ("0" * 32 + ".tmp")).write_bytes(b"somebody's")
    store.paths.layer_lock(NAME).write_bytes(words)

    assert looked_at(store) is None


def test_a_symlink_in_the_place_of_a_staged_file_is_not_followed(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    link = store.paths.staging / ("0" * 32 + ".tmp")
    link.symlink_to(secret)
    store.paths.layer_lock(NAME).write_text(link.name)

    with pytest.raises(StoreError):
        store.layers.open_partial(NAME)
