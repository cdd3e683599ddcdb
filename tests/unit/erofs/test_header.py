"""Our record beside the superblock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.erofs.header import LayerFlags, LayerHeader
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
