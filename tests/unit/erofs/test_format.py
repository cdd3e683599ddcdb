"""Structs of the EROFS format."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from imagecache.erofs import format as erofs
from imagecache.erofs.format import CHUNK_BASED, FLAT_INLINE, FLAT_PLAIN, Superblock
from imagecache.errors import LimitExceeded, MalformedLayer

SUPERBLOCK = Superblock(9, 2, 7, 1000, 900, bytes(range(16)))


CHUNKED = replace(SUPERBLOCK, chunked=True)


def test_sizes_are_those_of_the_kernel() -> None:
    assert (erofs.SUPERBLOCK.size, erofs.INODE.size, erofs.DIRENT.size) == (128, 64, 12)


def test_fields_of_the_superblock_lie_where_the_kernel_reads_them() -> None:
    data = SUPERBLOCK.pack()
    assert data[:4] == bytes.fromhex("e2e1f5e0")
    assert (data[12], data[14:16], data[16:24]) == (9, b"\2\0", b"\7" + bytes(7))
    assert data[36:44] == (1000).to_bytes(4, "little") + (900).to_bytes(4, "little")
    assert data[48:64] == bytes(range(16))
    assert not any(data[64:])
    assert Superblock.unpack(data) == SUPERBLOCK
    data = CHUNKED.pack()
    assert data[80:84] == b"\4\0\0\0"
    assert Superblock.unpack(data) == CHUNKED


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, 0, "no EROFS superblock"),
        (12, 10, "blocks of"),
        (80, 1, "features"),
        (80, 5, "features"),
        (81, 4, "features"),
        (8, 1, "features"),
        (90, 3, "features"),
    ],
    ids=["magic", "block size", "incompatible feature", "two of them", "another", "compatible feature", "dirblkbits"],
)
def test_other_superblocks_are_refused(offset: int, value: int, message: str) -> None:
    data = bytearray(SUPERBLOCK.pack())
    data[offset] = value
    with pytest.raises(MalformedLayer, match=message):
        Superblock.unpack(bytes(data))


@pytest.mark.parametrize("number", [(0, 0), (1, 3), (8, 255), (8, 256), (4095, 2**20 - 1)])
def test_device_numbers_are_encoded_as_linux_does(number: tuple[int, int]) -> None:
    assert erofs.decode_device(erofs.encode_device(*number)) == number
    assert erofs.encode_device(*number) == os.makedev(*number)


@pytest.mark.parametrize("number", [(4096, 0), (0, 2**20), (-1, 0), (0, -1)])
def test_device_numbers_out_of_range(number: tuple[int, int]) -> None:
    with pytest.raises(LimitExceeded):
        erofs.encode_device(*number)


def test_inode_formats() -> None:
    assert [erofs.encode_format(layout) for layout in (FLAT_PLAIN, FLAT_INLINE, CHUNK_BASED)] == [1, 5, 9]
    assert [erofs.decode_format(value) for value in (1, 5, 9)] == [FLAT_PLAIN, FLAT_INLINE, CHUNK_BASED]


@pytest.mark.parametrize("value", [0, 3, 4, 7, 8, 11, 16, 17, 25, 0xFFFF])
def test_other_inode_formats_are_refused(value: int) -> None:
    with pytest.raises(MalformedLayer):
        erofs.decode_format(value)


def test_align() -> None:
    assert [erofs.align(n, 512) for n in (0, 1, 511, 512, 513)] == [0, 512, 512, 512, 1024]
