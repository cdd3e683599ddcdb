"""Compressed blocks that a store keeps: a cache within its bound, whatever becomes of the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.limits import MIB
from imagecache.store.free_space import Reserve
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.packed_blocks import PackedBlocks, version
from imagecache.store.paths import StorePaths
from imagecache.store.store import Store
from testkit.store import put_bundle

NAME = LayerName(space=Space.LAYERS, digest=Digest.sha256(b"one"))
OTHER = LayerName(space=Space.CHAINS, digest=Digest.sha256(b"other"))
BUNDLE = "imc-" + "0" * 20


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def kept(store: Store, most: int = MIB) -> PackedBlocks:
    return PackedBlocks(store.paths, most)


def read(blocks: PackedBlocks, name: LayerName, version: str) -> bytes | None:
    found = blocks.open(name, version)
    if found is None:
        return None
    fd, size = found
    content = b"".join(bytes(piece) for piece in blocks.read(name, version, fd, memoryview(bytearray(100))))
    os.close(fd)
    assert len(content) == size
    return content


def on_disk(store: Store) -> list[Path]:
    return sorted(path for path in store.paths.packed.rglob("*") if path.is_file())


def test_what_is_kept_is_read_again(store: Store) -> None:
    blocks = kept(store)
    assert read(blocks, NAME, "0") is None

    blocks.keep(NAME, "0", b"first" * 100)
    blocks.keep(NAME, "7", b"seventh")
    blocks.keep(OTHER, "0", b"other")

    assert (read(blocks, NAME, "0"), read(blocks, NAME, "7"), read(blocks, OTHER, "0")) == (
        b"first" * 100,
        b"seventh",
        b"other",
    )
    assert read(kept(store), NAME, "7") == b"seventh"


def test_one_that_a_crash_has_cut_or_changed_is_removed_when_it_is_read(store: Store) -> None:
    blocks = kept(store)
    for number, content in enumerate((b"", b"abc", b"a block with another checksum")):
        blocks.keep(NAME, f"{number}", b"a block")
        store.paths.packed_block(NAME, f"{number}").write_bytes(content)

        read(blocks, NAME, f"{number}")

        assert read(blocks, NAME, f"{number}") is None
    assert on_disk(store) == []


def test_the_oldest_go_when_there_are_too_many(store: Store) -> None:
    blocks = kept(store, 160_000)
    for number in range(40):
        blocks.keep(NAME, f"{number}", bytes(10_000))
        os.utime(store.paths.packed_block(NAME, f"{number}"), (number, number))

    left = [int(path.name) for path in on_disk(store)]

    assert sum(path.stat().st_size for path in on_disk(store)) <= 160_000
    assert min(left) > 40 - len(left) - 2
    assert len(left) > 10


def test_what_an_earlier_run_has_kept_counts(store: Store) -> None:
    """Also with a bound that is smaller now, and before anything is written."""
    for number in range(10):
        kept(store).keep(NAME, f"{number}", bytes(10_000))

    kept(store, 60_000).trim()
    assert 40_000 < sum(path.stat().st_size for path in on_disk(store)) <= 60_000

    kept(store, 0).trim()
    assert on_disk(store) == []


def test_a_layer_image_that_was_made_again_has_blocks_of_its_own(tmp_path: Path) -> None:
    def of(content: bytes) -> str:
        path = tmp_path / "layer"
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        with path.open("rb") as file:
            return version(file.fileno(), 3)

    first = of(b"with a wrong byte")
    with (tmp_path / "layer").open("rb") as file:
        assert version(file.fileno(), 3) == first
        assert version(file.fileno(), 4) != first
    assert of(b"without") != first


def test_a_build_that_has_no_room_takes_that_of_blocks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(store).keep(NAME, "0", b"x" * 5000)
    disk = os.statvfs(store.root)

    def statvfs(_path: object) -> os.statvfs_result:
        """A disk that is full while there are blocks."""
        fields = list(disk)
        fields[4] = 0 if on_disk(store) else disk.f_blocks
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", statvfs)
    Reserve(store.root, 0.1).check(1000)

    assert on_disk(store) == []


def test_nothing_is_kept_where_nothing_may_be(store: Store) -> None:
    blocks = kept(store, 0)

    blocks.keep(NAME, "0", b"first")

    assert (read(blocks, NAME, "0"), store.paths.packed.exists()) == (None, False)


def test_nothing_is_kept_on_a_disk_that_images_need(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = kept(store)
    monkeypatch.setattr("imagecache.store.packed_blocks._LEAST_FREE", 1.1)

    blocks.keep(NAME, "0", b"first")

    assert on_disk(store) == []


def test_a_directory_that_cannot_be_written_to_fails_nobody(store: Store) -> None:
    store.paths.packed.write_text("a file in its place")

    kept(store).keep(NAME, "0", b"first")

    assert read(kept(store), NAME, "0") is None


def test_a_collection_removes_those_of_layers_that_it_removes(store: Store) -> None:
    put_bundle(store, BUNDLE, [DiffID(Digest.sha256(b"here"))], [b"here"])
    (here,) = store.bundles.get(BUNDLE).layer_names()
    blocks = kept(store)
    for name in (here, NAME):
        blocks.keep(name, "0", b"x" * 5000)

    assert store.collect(dry_run=True).freed >= 5000
    assert len(on_disk(store)) == 2
    freed = store.collect().freed

    assert freed >= 5000
    assert on_disk(store) == [StorePaths(store.root).packed_block(here, "0")]
    assert [path.name for path in store.paths.packed.iterdir()] == [f"layers-sha256-{here.digest.hex}"]


def test_a_collection_removes_all_of_them_when_images_need_the_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_bundle(store, BUNDLE, [DiffID(Digest.sha256(b"here"))], [b"here"])
    (here,) = store.bundles.get(BUNDLE).layer_names()
    kept(store).keep(here, "0", b"x" * 5000)
    monkeypatch.setattr("imagecache.store.packed_blocks._LEAST_FREE", 1.1)

    store.collect()

    assert on_disk(store) == []
    assert store.layers.has(here)


def test_they_count_as_use_of_the_disk(store: Store) -> None:
    kept(store).keep(NAME, "0", b"x" * 5000)

    assert store.usage().packed >= 5000
