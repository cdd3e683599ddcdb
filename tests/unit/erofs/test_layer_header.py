"""Our record beside the superblock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.erofs.layer_header import (
    DATA_START,
    HEADER_OFFSET,
    LayerFlags,
    LayerHeader,
    tar_length,
    unfinished,
)
from imagecache.errors import MalformedLayer

HEADER = LayerHeader(1024, DiffID(Digest.sha256(b"")), 3, LayerFlags.BOTTOM | LayerFlags.WHITEOUTS)


def test_it_is_read_back() -> None:
    assert LayerHeader.unpack(HEADER.pack()) == HEADER


def test_bytes() -> None:
    assert HEADER.pack()[:32].hex() == "494d474341434845010000000500000000040000000000000300000000000000"
    assert HEADER.pack()[32:].hex() == HEADER.diff_id.hex


@pytest.mark.parametrize("offset", [0, 8], ids=["magic", "version"])
def test_others_are_refused(offset: int) -> None:
    data = bytearray(HEADER.pack())
    data[offset] ^= 0xFF
    with pytest.raises(MalformedLayer):
        LayerHeader.unpack(bytes(data))


def test_a_digest_that_has_no_room_is_refused() -> None:
    with pytest.raises(MalformedLayer, match="sha512"):
        replace(HEADER, diff_id=DiffID(Digest("sha512:" + "0" * 128))).pack()


def test_the_bytes_of_an_unfinished_head() -> None:
    head = unfinished(1025)

    assert len(head) == DATA_START
    assert head[HEADER_OFFSET:].rstrip(b"\0").hex() == "494d47432d5441520104"
    assert not any(head[:HEADER_OFFSET])


def test_an_unfinished_head_is_no_header() -> None:
    with pytest.raises(MalformedLayer, match="no IMGCACHE header"):
        LayerHeader.unpack(unfinished(1024)[HEADER_OFFSET:][: LayerHeader.STRUCT.size])


@pytest.mark.parametrize("size", [0, 1, 1024, 1 << 40])
def test_the_tar_of_an_unfinished_file_has_a_length(size: int) -> None:
    assert tar_length(unfinished(size)) == size


def test_the_tar_of_a_finished_file_has_a_length() -> None:
    assert tar_length((bytes(HEADER_OFFSET) + HEADER.pack()).ljust(DATA_START, b"\0")) == HEADER.tar_size


@pytest.mark.parametrize(
    "head",
    [b"", unfinished(1024)[: HEADER_OFFSET + LayerHeader.STRUCT.size - 1], bytes(DATA_START)],
    ids=["nothing", "short", "zeros"],
)
def test_nobody_knows_the_length_yet(head: bytes) -> None:
    assert tar_length(head) is None


@pytest.mark.parametrize("offset", [0, 8], ids=["magic", "version"])
def test_no_length_is_taken_from_another_file(offset: int) -> None:
    head = bytearray(bytes(HEADER_OFFSET) + HEADER.pack())
    head[HEADER_OFFSET + offset] ^= 0xFF
    with pytest.raises(MalformedLayer):
        tar_length(bytes(head))
