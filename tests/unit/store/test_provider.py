"""What the suite does not see: how often documents are read, and what is damaged."""

from __future__ import annotations

import pytest

from imagecache.digest import ChainID, DiffID, Digest
from imagecache.store.snapshots import Snapshots
from imagecache.store.store import Store
from imagecache.testing.store import put_snapshot

A, B = "imc-aaaaaaaaaaaaaaaaaaaa", "imc-bbbbbbbbbbbbbbbbbbbb"
BASE, APP = (DiffID(Digest.sha256(text)) for text in (b"base", b"app"))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cache ids of the documents that were read."""
    read: list[str] = []
    load = Snapshots._load

    def counted(self: Snapshots, entry: object) -> object:
        stored = load(self, entry)  # type: ignore[arg-type]
        read.append(stored.document.id)
        return stored

    monkeypatch.setattr(Snapshots, "_load", counted)
    return read


def test_documents_are_read_once(store: Store, loads: list[str]) -> None:
    put_snapshot(store, A, [BASE], [b"base"])
    for _ in range(3):
        assert store.provider.lookup(ChainID(BASE)) is not None
    put_snapshot(store, B, [APP], [b"app"])
    for _ in range(3):
        assert store.provider.lookup(ChainID(APP)) is not None
    store.snapshots.delete(A)
    assert store.provider.lookup(ChainID(BASE)) is None

    assert loads == [A, B]


def test_a_damaged_snapshot_does_not_hide_the_others(store: Store) -> None:
    put_snapshot(store, A, [BASE], [b"base"])
    store.paths.blob(store.snapshots.index().manifests[0].digest).unlink()
    put_snapshot(store, B, [APP], [b"app"])

    assert store.provider.lookup(ChainID(APP)) is not None
    assert store.provider.lookup(ChainID(BASE)) is None


def test_a_damaged_index_serves_what_was_known(store: Store) -> None:
    put_snapshot(store, A, [BASE], [b"base"])
    assert store.provider.lookup(ChainID(BASE)) is not None

    store.paths.index.write_bytes(b"{")
    assert store.provider.lookup(ChainID(BASE)) is not None
    store.paths.index.unlink()
    assert store.provider.lookup(ChainID(BASE)) is not None
    assert store.provider.lookup(ChainID(APP)) is None


def test_the_second_file_serves_when_the_first_is_lost(store: Store) -> None:
    """Two snapshots may have different files for one chainID, of both key spaces."""
    put_snapshot(store, A, [BASE, APP], [b"base", b"app"])
    put_snapshot(store, B, [BASE, APP], [b"base", b"app"])
    layer = store.provider.lookup(ChainID(BASE))
    assert layer is not None
    layer.path.unlink()

    assert store.provider.lookup(ChainID(BASE)) is None
