"""A reader of a file that still grows waits for what it wants, and for nothing that never comes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.builder.growing_file import GrowingFile


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "blob").write_bytes(b"0123456789")
    opened = os.open(tmp_path / "blob", os.O_RDONLY)
    yield opened
    os.close(opened)


def test_what_is_there_is_read(fd: int) -> None:
    file = GrowingFile(fd, 10)
    file.grow(10)

    assert (file.read(4), file.tell(), file.read(), file.read(1)) == (b"0123", 4, b"456789", b"")
    assert (file.seek(-3, os.SEEK_END), file.read(2), file.seek(-1, os.SEEK_CUR), file.read(9)) == (7, b"78", 8, b"89")


def test_a_read_waits_until_all_of_it_is_there(fd: int) -> None:
    file, found = GrowingFile(fd, 10), list[bytes]()
    reader = threading.Thread(target=lambda: found.append(file.read(6)))
    reader.start()
    file.grow(3)
    reader.join(0.1)
    assert reader.is_alive()

    file.grow(6)
    reader.join(10)

    assert found == [b"012345"]


def test_at_the_end_a_read_has_what_there_is(fd: int) -> None:
    file, found = GrowingFile(fd, 10), list[bytes]()
    file.grow(3)
    reader = threading.Thread(target=lambda: found.extend([file.read(6), file.read(6)]))
    reader.start()

    file.end()
    reader.join(10)

    assert found == [b"012", b""]
