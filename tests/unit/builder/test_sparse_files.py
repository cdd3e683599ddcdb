"""What sparse files of a layer cost: their data, and next to nothing for their holes."""

from __future__ import annotations

import gzip
import io
import os
import time
from pathlib import Path

import pytest

from imagecache.builder import layer_file
from imagecache.erofs.reader import LayerImage
from imagecache.errors import LimitExceeded
from imagecache.limits import DEFAULT, GIB, KIB, MIB, TIB
from testkit.tars import sparse_file, tar


@pytest.mark.parametrize("size", [256 * MIB, 8 * GIB, TIB])
def test_a_hole_takes_neither_time_nor_room(tmp_path: Path, size: int) -> None:
    """A layer of some hundred bytes took 12 s, and as much of each disk as the hole has bytes."""
    layer = gzip.compress(tar(sparse_file(b"hole", size, {})))
    assert len(layer) < 300
    start = time.process_time()
    built = layer_file.build(io.BytesIO(layer), tmp_path / "layer")
    assert layer_file.verify(tmp_path / "layer").digest == built.digest
    assert time.process_time() - start < 2
    assert built.size == (tmp_path / "layer").stat().st_size < 64 * KIB
    with LayerImage.open(tmp_path / "layer") as image:
        inode = image.child(image.root(), b"hole")
        assert inode is not None
        assert (inode.size, list(image.extents(inode))) == (size, [])


def test_the_data_of_a_sparse_file_is_in_the_layer_image(tmp_path: Path) -> None:
    data = {5: os.urandom(5000), 3 * MIB + 1: os.urandom(100), 9 * MIB - 1: b"z"}
    layer_file.build(io.BytesIO(tar(sparse_file(b"d/disk", 9 * MIB, data))), tmp_path / "layer")
    expected = bytearray(9 * MIB)
    for offset, content in data.items():
        expected[offset : offset + len(content)] = content
    with LayerImage.open(tmp_path / "layer") as image:
        assert b"".join(image.read(image.tree().children[b"d"].children[b"disk"])) == expected
    assert (tmp_path / "layer").stat().st_size < 128 * KIB


def test_what_sparse_files_claim_is_bounded(tmp_path: Path) -> None:
    """Readers of their content get each byte of them, and a copy for an old kernel has room for each."""
    half = DEFAULT.layer_uncompressed // 2
    files = [sparse_file(b"a", half, {}), sparse_file(b"b", half, {})]
    layer_file.build(io.BytesIO(tar(*files)), tmp_path / "layer")
    with pytest.raises(LimitExceeded, match="more than"):
        layer_file.build(io.BytesIO(tar(*files, sparse_file(b"c", 1, {}))), tmp_path / "more")
