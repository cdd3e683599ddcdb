"""A block of a layer image as zstd frames, which is how it travels where the network is slower than zstd.

Each frame has one chunk, so that reading one needs no other and little memory. The sender is not trusted: what it says
of sizes decides nothing, and the reader of the layer hashes what comes out. Source: RFC 8878; Content-Encoding zstd has
a window of 8 MiB at most (RFC 9659). It must not do I/O.
"""

from __future__ import annotations

import zstandard

from imagecache.errors import StoreCorrupt

CHUNK = 256 << 10
_LEVEL = 1
"""Of a layer with Python, 3.1 times smaller at 270 MB/s of a core; level 3 makes it 3.3 times smaller at half of that
(docs/adr/0028-compressed-blocks.md)."""


def pack(block: memoryview) -> bytes:
    """Frames of its chunks, the last one perhaps shorter. Releases the interpreter's lock."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, write_content_size=True)
    return b"".join(compressor.compress(block[at : at + CHUNK]) for at in range(0, len(block), CHUNK))


def unpack(packed: memoryview, block: memoryview) -> None:
    """Fill ``block`` with what the frames hold. Raises StoreCorrupt when that is less, or more, or no frame."""
    filled = more = 0
    try:
        with zstandard.ZstdDecompressor(max_window_size=CHUNK).stream_reader(packed, read_across_frames=True) as frames:
            while filled < len(block) and (count := frames.readinto(block[filled:])):
                filled += count
            more = len(frames.read(1))
    except zstandard.ZstdError as error:
        raise StoreCorrupt(f"a compressed block of a layer image is broken: {error}") from error
    if filled < len(block) or more:
        raise StoreCorrupt(f"a compressed block of a layer image does not hold {len(block)} bytes")
