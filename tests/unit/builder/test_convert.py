"""One conversion, when something goes wrong in one of its threads: the others end, and the right error comes out."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.builder.convert import convert
from imagecache.digest import Digest
from imagecache.errors import DigestMismatch, MalformedLayer
from imagecache.limits import DEFAULT, MIB

_TAR_SIZE = 24 * MIB
"""More than the queues between the threads hold."""


def _blob() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("large")
        info.size = _TAR_SIZE
        archive.addfile(info, io.BytesIO(os.urandom(MIB) * 24))
    return gzip.compress(buffer.getvalue(), 1)


def _chunks(blob: bytes) -> Iterator[bytes]:
    return iter([blob[start : start + MIB] for start in range(0, len(blob), MIB)])


def _sha256(data: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


@pytest.fixture
def output(tmp_path: Path) -> Iterator[int]:
    before = set(threading.enumerate())
    fd = os.open(tmp_path / "layer.erofs", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)
    assert set(threading.enumerate()) <= before


@pytest.mark.usefixtures("output")
def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "layer.erofs", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            convert(_chunks(_blob()), fd, bottom=False, limits=DEFAULT)
    finally:
        os.close(fd)


def test_a_source_that_fails(output: int) -> None:
    def failing() -> Iterator[bytes]:
        yield _blob()[:MIB]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        convert(failing(), output, bottom=False, limits=DEFAULT)


def test_nonsense_that_was_promised_is_malformed(output: int) -> None:
    blob = gzip.compress(os.urandom(24 * MIB), 1)
    with pytest.raises(MalformedLayer):
        convert(_chunks(blob), output, bottom=False, limits=DEFAULT, blob=_sha256(blob))


def test_nonsense_that_was_not_promised_is_a_transfer_error(output: int) -> None:
    blob = _blob()
    damaged = blob[:MIB] + bytes(len(blob) - MIB)
    with pytest.raises(DigestMismatch):
        convert(_chunks(damaged), output, bottom=False, limits=DEFAULT, blob=_sha256(blob))


def test_what_follows_the_archive_belongs_to_the_blob(output: int) -> None:
    blob = _blob()
    with pytest.raises(DigestMismatch):
        convert(_chunks(blob + gzip.compress(b"more")), output, bottom=False, limits=DEFAULT, blob=_sha256(blob))
