"""A layer image has one digest, however its bytes come."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.builder.convert import convert
from imagecache.builder.converted import Converted
from imagecache.builder.image_digest import image_digest
from imagecache.erofs.layer_header import DATA_START
from imagecache.errors import StoreError
from imagecache.limits import DEFAULT


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(20):
            info = tarfile.TarInfo(f"file-{number}")
            info.size = 5000
            archive.addfile(info, io.BytesIO(bytes([number]) * 5000))
    return buffer.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "layer.erofs", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def made(file: int) -> Converted:
    return convert(iter([tar()]), file, bottom=False, limits=DEFAULT).finish(file)


def test_of_a_conversion_it_is_that_of_the_file(file: int, made: Converted) -> None:
    data = os.pread(file, made.size + 1, 0)

    assert len(data) == made.size
    assert made.digest == image_digest(file, made.size)
    assert made.digest == f"sha256:{hashlib.sha256(data[DATA_START:] + data[:DATA_START]).hexdigest()}"


@pytest.mark.parametrize("position", [0, DATA_START - 1, DATA_START, DATA_START + 600, -1])
def test_every_byte_is_in_it(file: int, made: Converted, position: int) -> None:
    place = position % made.size
    os.pwrite(file, bytes([os.pread(file, 1, place)[0] ^ 1]), place)

    assert image_digest(file, made.size) != made.digest


def test_a_file_that_is_too_short(file: int, made: Converted) -> None:
    with pytest.raises(StoreError, match="shorter"):
        image_digest(file, made.size + 1)
