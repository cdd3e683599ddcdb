"""Directory blocks."""

from __future__ import annotations

import pytest

from imagecache.erofs import dirent
from imagecache.erofs.dirent import Entry
from imagecache.erofs.format import DIRENT
from imagecache.errors import MalformedLayer

ENTRIES = [Entry(b".", 2, 2), Entry(b"..", 2, 2), Entry(b"a", 4, 1)]


def block(*records: tuple[int, int, int, int], names: bytes) -> bytes:
    return b"".join(DIRENT.pack(*record) for record in records) + names


def test_bytes_of_a_block() -> None:
    data = dirent.pack(ENTRIES)
    assert data == block((2, 36, 2, 0), (2, 37, 2, 0), (4, 39, 1, 0), names=b"...a")
    assert dirent.used([entry.name for entry in ENTRIES]) == len(data)


@pytest.mark.parametrize("padding", [0, 1, 400])
def test_a_block_is_read_back(padding: int) -> None:
    assert dirent.unpack(dirent.pack(ENTRIES) + bytes(padding)) == ENTRIES


def test_blocks_take_as_many_names_as_fit() -> None:
    names = [b"%04d" % number for number in range(100)]
    assert dirent.split(names, 512) == [0, 32, 64, 96]
    assert dirent.split(names[:32], 512) == [0]
    assert dirent.split(names[:33], 512) == [0, 32]


def test_the_longest_names_fit_one_to_a_block() -> None:
    assert dirent.split([b"a" * 255, b"b" * 255, b"c" * 221], 512) == [0, 1]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(11),
        block((1, 0, 1, 0), names=b"a"),
        block((1, 13, 1, 0), names=b"aa"),
        block((1, 24, 1, 0), names=b"a"),
        block((1, 12, 1, 0), names=b""),
        block((1, 12, 1, 1), names=b"a"),
        block((1, 12, 1, 0), names=b"a" * 256),
        block((1, 12, 1, 0), names=b"a/b"),
        block((1, 12, 1, 0), names=b"a\0b"),
        block((1, 24, 1, 0), (1, 25, 1, 0), names=b"ba"),
        block((1, 24, 1, 0), (1, 25, 1, 0), names=b"aa"),
        block((1, 24, 1, 0), (1, 99, 1, 0), names=b"ab"),
        block((1, 24, 1, 0), (1, 3, 1, 0), names=b"ab"),
        block((1, 24, 1, 0), (1, 24, 1, 0), names=b"ab"),
    ],
    ids=[
        *("empty", "short", "no entries", "odd offset", "behind the end", "no name", "reserved", "long name", "slash"),
        *("zero byte", "unsorted", "twice", "outside", "inside the entries", "empty name"),
    ],
)
def test_other_blocks_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedLayer):
        dirent.unpack(data)
