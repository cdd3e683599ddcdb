"""Re-laying to 4096-byte blocks."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from imagecache.erofs import realign as module
from imagecache.erofs.layer_header import LayerFlags
from imagecache.erofs.reader import LayerImage
from imagecache.erofs.realign import realign
from imagecache.erofs.writer import plan
from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.limits import DEFAULT
from imagecache.tree import Inode, directory
from testkit.trees import TarStandIn, put, write_layer, zoo


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "layer.erofs"
    with path.open("w+b") as file:
        write_layer(file.fileno(), *zoo())
    return path


def realigned(source: Path, target: Path) -> bytes:
    with target.open("w+b") as file:
        file.write(b"\xff" * 3_000_000)
        file.flush()
        size = realign(source, file.fileno())
    data = target.read_bytes()
    assert len(data) == size
    return data


def test_content_is_aligned(source: Path, tmp_path: Path) -> None:
    realigned(source, tmp_path / "out")
    with LayerImage.open(tmp_path / "out") as image:
        assert {inode.position % 4096 for _, inode in image.walk() if inode.is_file or inode.is_dir} == {0}


def test_it_is_deterministic_and_has_nothing_left_to_do(source: Path, tmp_path: Path) -> None:
    once = realigned(source, tmp_path / "once")
    assert realigned(source, tmp_path / "again") == once
    assert realigned(tmp_path / "once", tmp_path / "twice") == once


def test_the_header_describes_the_original(source: Path, tmp_path: Path) -> None:
    realigned(source, tmp_path / "out")
    with LayerImage.open(source) as original, LayerImage.open(tmp_path / "out") as copy:
        assert copy.header.flags == original.header.flags | LayerFlags.REALIGNED
        assert (copy.header.diff_id, copy.header.tar_size) == (original.header.diff_id, original.header.tar_size)


def test_files_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """Otherwise a small file could ask for an endless copy."""
    root, tar = directory(), TarStandIn()
    first = put(root, "first", tar.file(b"a" * 2000))
    put(root, "second", Inode(mode=first.mode, size=500, data=first.data + 512))
    with (tmp_path / "layer.erofs").open("w+b") as file:
        write_layer(file.fileno(), root, tar)
    with pytest.raises(MalformedLayer, match="belongs to another file"):
        realigned(tmp_path / "layer.erofs", tmp_path / "out")


def test_holes_stay_holes(tmp_path: Path) -> None:
    root, tar = directory(), TarStandIn()
    put(root, "sparse", tar.sparse_file(50_000_000, {20_000_000: b"middle"}))
    put(root, "empty", tar.sparse_file(50_000_000, {}))
    with (tmp_path / "layer.erofs").open("w+b") as file:
        write_layer(file.fileno(), root, tar)
    with (tmp_path / "out").open("w+b") as file:
        assert realign(tmp_path / "layer.erofs", file.fileno()) > 100_000_000
    assert (tmp_path / "out").stat().st_blocks * 512 < 1_000_000


def test_what_a_sparse_file_may_take(tmp_path: Path) -> None:
    """Of a hostile image: holes are as large as a number says."""
    root, tar = directory(), TarStandIn()
    put(root, "one", tar.sparse_file(6000, {0: b"x"}))
    put(root, "two", tar.sparse_file(6000, {}))
    with (tmp_path / "layer.erofs").open("w+b") as file:
        write_layer(file.fileno(), root, tar)
    with (tmp_path / "out").open("w+b") as file:
        realign(tmp_path / "layer.erofs", file.fileno(), limits=replace(DEFAULT, layer_uncompressed=12_000))
        with pytest.raises(LimitExceeded, match="layer_uncompressed"):
            realign(tmp_path / "layer.erofs", file.fileno(), limits=replace(DEFAULT, layer_uncompressed=11_999))


def test_tables_that_are_one_table_are_refused(tmp_path: Path) -> None:
    """Otherwise a small file could ask for an endless reading: each inode claims all of the file behind it."""
    root, tar = directory(), TarStandIn()
    for number in range(5):
        put(root, f"{number}", tar.sparse_file(1 << 20, {}))
    path = tmp_path / "layer.erofs"
    with path.open("w+b") as file:
        write_layer(file.fileno(), root, tar)
        layout = plan(root, tar.size).layout
        chunks = (layout.total - layout.start) // 4 // 2
        for placed in layout.inodes[1:]:
            os.pwrite(file.fileno(), (chunks * 512).to_bytes(8, "little"), layout.start + placed.offset + 8)
            os.pwrite(file.fileno(), bytes(4), layout.start + placed.offset + 16)
    with pytest.raises(MalformedLayer, match="tables of sparse files"):
        realigned(path, tmp_path / "out")


def test_copies_through_memory_between_filesystems(source: Path, tmp_path: Path) -> None:
    """The kernel's copy_file_range refuses other kinds of filesystems (EXDEV)."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:  # a tmpfs
        with (
            (Path(other) / "probe").open("w+b") as file,
            source.open("rb") as opened,
            pytest.raises(OSError, match="cross"),
        ):
            os.copy_file_range(opened.fileno(), file.fileno(), 10, 0, 0)
        assert realigned(source, Path(other) / "out") == realigned(source, tmp_path / "out")


def test_errors_of_the_target_pass(source: Path, tmp_path: Path) -> None:
    """A descriptor in append mode cannot be written at an offset by the kernel's copy."""
    with (tmp_path / "out").open("ab") as file, pytest.raises(OSError, match="Bad file descriptor"):
        realign(source, file.fileno())


def test_a_source_that_shrinks_is_malformed(tmp_path: Path) -> None:
    with (tmp_path / "source").open("w+b") as source, (tmp_path / "out").open("w+b") as target:
        source.truncate(10)
        with pytest.raises(MalformedLayer, match="became shorter"):
            module._copy(source.fileno(), target.fileno(), (0, 0), 20)


def test_data_between_holes(tmp_path: Path) -> None:
    with (tmp_path / "source").open("w+b") as source:
        source.truncate(1 << 20)
        assert list(module._data(source.fileno(), 0, 1 << 20)) == []
        os.pwrite(source.fileno(), b"x" * 4096, 8192)
        assert list(module._data(source.fileno(), 100, 10_000)) == [(8192, 1908)]
        assert list(module._data(source.fileno(), 0, 8192)) == []


def test_errors_of_the_source_pass() -> None:
    ends = os.pipe()
    try:
        with pytest.raises(OSError, match="Illegal seek"):
            list(module._data(ends[0], 0, 10))
    finally:
        for end in ends:
            os.close(end)


def test_the_original_plan_is_another(source: Path) -> None:
    root, tar = zoo()
    assert plan(root, tar.size).total == source.stat().st_size
