"""Blocks as frames of chunks: what goes in comes out, and nothing else does."""

from __future__ import annotations

import random

import pytest
import zstandard

from imagecache.errors import StoreCorrupt
from imagecache.layer.frames import CHUNK, pack, unpack

TEXT = b"".join(f"line {number}\n".encode() for number in range(100_000))
NOISE = random.Random(3).randbytes(CHUNK)


def unpacked(packed: bytes, length: int) -> bytes:
    block = bytearray(length)
    unpack(memoryview(packed), memoryview(block))
    return bytes(block)


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK, len(TEXT)])
def test_what_was_packed(length: int) -> None:
    assert unpacked(pack(memoryview(TEXT[:length])), length) == TEXT[:length]


def test_what_does_not_get_smaller_comes_out_as_well() -> None:
    assert unpacked(pack(memoryview(NOISE)), CHUNK) == NOISE


def test_each_chunk_is_a_frame_of_its_own() -> None:
    whole = pack(memoryview(TEXT[: 3 * CHUNK]))
    middle = pack(memoryview(TEXT[CHUNK : 2 * CHUNK]))

    assert pack(memoryview(TEXT[:CHUNK])) + middle + pack(memoryview(TEXT[2 * CHUNK : 3 * CHUNK])) == whole
    assert unpacked(middle, CHUNK) == TEXT[CHUNK : 2 * CHUNK]


PACKED = pack(memoryview(TEXT[: 2 * CHUNK]))
LARGE_WINDOW = zstandard.ZstdCompressor(
    compression_params=zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
).compressobj()
BROKEN = {
    "nothing": b"",
    "no frame": b"no frame at all",
    "cut within a frame": PACKED[:-100],
    "cut between two frames": pack(memoryview(TEXT[:CHUNK])),
    "one byte changed": PACKED[:500] + bytes([PACKED[500] ^ 1]) + PACKED[501:],
    "more than the block": pack(memoryview(TEXT[: 2 * CHUNK + 1])),
    "a frame behind it": PACKED + pack(memoryview(b"x")),
    "a gigabyte of zeros": zstandard.ZstdCompressor().compress(bytes(1 << 30)),
    "a large window": LARGE_WINDOW.compress(TEXT[: 2 * CHUNK]) + LARGE_WINDOW.flush(),
}


@pytest.mark.parametrize("packed", BROKEN.values(), ids=BROKEN)
def test_what_is_no_block_is_refused(packed: bytes) -> None:
    with pytest.raises(StoreCorrupt, match="compressed block"):
        unpacked(packed, 2 * CHUNK)
