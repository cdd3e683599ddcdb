"""A layer whose tar has 0 bytes is an empty tree, wherever it comes from and whatever is made of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
from pathlib import Path

import pytest
import zstandard

from imagecache.builder import layer_file
from imagecache.builder.derive import copy_tar, derive
from imagecache.builder.image_digest import image_digest
from imagecache.builder.position import ANYWHERE
from imagecache.builder.prove import prove
from imagecache.digest import DiffID, Digest
from imagecache.erofs.layer_header import DATA_START
from imagecache.erofs.reader import LayerImage
from imagecache.erofs.realign import realign
from imagecache.limits import DEFAULT

NOTHING = DiffID(Digest(f"sha256:{hashlib.sha256().hexdigest()}"))
SKIPPABLE = b"\x50\x2a\x4d\x18" + struct.pack("<I", 8) + b"skipped."
FORMS = {
    "plain": b"",
    "gzip": gzip.compress(b"", mtime=0),
    "gzip, three members": gzip.compress(b"", mtime=0) * 3,
    "zstd": zstandard.compress(b""),
    "zstd, several frames": SKIPPABLE + zstandard.compress(b"") * 2,
    "zstd, nothing but a skippable frame": SKIPPABLE,
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The layer image of nothing."""
    path = tmp_path / "empty.erofs"
    layer_file.build(io.BytesIO(b""), path)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_built_verified_and_exported(tmp_path: Path, image: Path, form: str) -> None:
    path, exported = tmp_path / "x.erofs", io.BytesIO()

    built = layer_file.build(io.BytesIO(FORMS[form]), path)

    assert (built.header.tar_size, built.header.diff_id, built.header.entries) == (0, NOTHING, 0)
    assert path.read_bytes() == image.read_bytes()
    assert layer_file.verify(path, NOTHING).digest == built.digest
    assert (layer_file.export(path, exported), exported.getvalue()) == (built.header, b"")
    with LayerImage.open(path) as opened:
        assert [names for names, _ in opened.walk()] == [()]


@pytest.mark.parametrize("bottom", [False, True])
def test_derived_for_another_position(tmp_path: Path, image: Path, *, bottom: bool) -> None:
    source = os.open(image, os.O_RDONLY)
    target = os.open(tmp_path / "derived", os.O_RDWR | os.O_CREAT)
    try:
        copy_tar(source, target, 0)
        derived = derive(target, tar_size=0, diff_id=NOTHING, lowers=[], bottom=bottom, limits=DEFAULT)
        assert derived.digest == image_digest(target, derived.size)
    finally:
        os.close(source)
        os.close(target)
    assert layer_file.verify(tmp_path / "derived", NOTHING).size == derived.size


@pytest.mark.parametrize("tar_size", [0, None])
def test_proven_while_it_arrives(image: Path, tar_size: int | None) -> None:
    """Without the size, nothing but the diffID tells that the first byte is none of a tar."""
    data = memoryview(image.read_bytes())
    with image.open("rb") as file:
        proven = prove(
            file.fileno(),
            [data[0 if tar_size is not None else DATA_START :]],
            diff_id=NOTHING,
            tar_size=tar_size,
            position=ANYWHERE,
            limits=DEFAULT,
        )
        assert proven.header.tar_size == 0


def test_realigned(tmp_path: Path, image: Path) -> None:
    with (tmp_path / "copy").open("x+b") as file:
        realign(image, file.fileno())
    with LayerImage.open(tmp_path / "copy") as opened:
        assert (opened.realigned, [names for names, _ in opened.walk()]) == (True, [()])
