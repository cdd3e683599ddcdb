import gzip
import random
import struct
import zlib
from dataclasses import replace

import pytest
import zstandard

from imagecache.errors import LimitExceeded, MalformedLayer, UnsupportedMediaType
from imagecache.layer.compression import Compression, Decompressor, sniff
from imagecache.limits import DEFAULT, MIB, Limits

_NOISE = random.Random(1).randbytes(70_000)
_TEXT = b"".join(b"line %d of a text that packs well\n" % number for number in range(9000))


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _zstd(data: bytes, *, size: bool = True, checksum: bool = False) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=size, write_checksum=checksum).compress(data)


def _streamed_zstd(data: bytes) -> bytes:
    """A frame with a window descriptor, as a writer that does not know the size makes it."""
    stream = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return stream.compress(data) + stream.flush()


def _skippable(data: bytes) -> bytes:
    return b"\x53\x2a\x4d\x18" + struct.pack("<I", len(data)) + data


def _inflate(packed: bytes, kind: Compression, step: int = 1 << 20, limits: Limits = DEFAULT) -> bytes:
    stream = Decompressor(kind, limits)
    data = b"".join(stream.decompress(packed[start : start + step]) for start in range(0, len(packed), step))
    stream.finish()
    assert (stream.consumed, stream.produced) == (len(packed), len(data))
    return data


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (_gzip(b"x"), Compression.GZIP),
        (_zstd(b"x"), Compression.ZSTD),
        (_skippable(b"x"), Compression.ZSTD),
        (b"\x53\x2a\x4d\x18", Compression.NONE),
        (b"", Compression.NONE),
        (b"BZhello, a file name", Compression.NONE),
        (b"usr/bin/", Compression.NONE),
    ],
)
def test_sniff(head: bytes, kind: Compression) -> None:
    assert sniff(head) is kind


@pytest.mark.parametrize(("head", "name"), [(b"\xfd7zXZ\x00\x00", "xz"), (b"BZh91AY&SY", "bzip2")])
def test_sniff_refuses_what_containerd_cannot_unpack(head: bytes, name: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=name):
        sniff(head)


@pytest.mark.parametrize("step", [1, 13, 4096, 1 << 20])
@pytest.mark.parametrize("data", [b"", b"x", _NOISE, _TEXT], ids=["nothing", "byte", "noise", "text"])
def test_every_form_in_chunks_of_any_size(data: bytes, step: int) -> None:
    if step == 1:
        data = data[:300]
    forms = {
        Compression.NONE: (data,),
        Compression.GZIP: (_gzip(data), _gzip(data) + _gzip(b"") + _gzip(b"more")),
        Compression.ZSTD: (
            _zstd(data),
            _zstd(data, size=False, checksum=True),
            _streamed_zstd(data),
            _skippable(b"first") + _zstd(data) + _skippable(b"") + _streamed_zstd(b"more"),
        ),
    }
    for kind, streams in forms.items():
        for packed in streams:
            assert _inflate(packed, kind, step) in {data, data + b"more"}


def test_memoryviews_and_empty_chunks_are_taken() -> None:
    assert list(Decompressor(Compression.NONE, DEFAULT).feed(b"")) == []
    assert Decompressor(Compression.GZIP, DEFAULT).decompress(memoryview(_gzip(_TEXT))) == _TEXT


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.ZSTD])
def test_a_stream_cut_anywhere_is_noticed(kind: Compression) -> None:
    packed = _gzip(_TEXT[:2000]) if kind is Compression.GZIP else _streamed_zstd(_TEXT[:2000])
    for length in range(1, len(packed)):
        stream = Decompressor(kind, DEFAULT)
        stream.decompress(packed[:length])
        with pytest.raises(MalformedLayer, match="is cut off"):
            stream.finish()


@pytest.mark.parametrize(
    ("packed", "kind"),
    [
        (_gzip(_TEXT) + b"garbage behind it", Compression.GZIP),
        (_gzip(_TEXT) + bytes(20), Compression.GZIP),
        (_gzip(_TEXT)[:-8] + bytes(8), Compression.GZIP),
        (b"\x1f\x8b\x08\x00" + bytes(6) + b"\xff" * 50, Compression.GZIP),
        (_zstd(_TEXT) + b"garbage behind it", Compression.ZSTD),
        (_zstd(_TEXT, checksum=True)[:-4] + bytes(4), Compression.ZSTD),
        (_zstd(_NOISE)[:9] + b"\xff" * 100, Compression.ZSTD),
    ],
)
def test_broken_streams(packed: bytes, kind: Compression) -> None:
    with pytest.raises(MalformedLayer, match=kind.value):
        _inflate(packed, kind)


def _zeros(kind: Compression, size: int) -> bytes:
    if kind is Compression.GZIP:
        packer = zlib.compressobj(9, wbits=31)
        piece = bytes(MIB)
        return b"".join(packer.compress(piece) for _ in range(size // MIB)) + packer.flush()
    blocks = [b"\x02\x00\x10\x00"] * (size // (128 * 1024) - 1) + [b"\x03\x00\x10\x00"]
    return b"\x28\xb5\x2f\xfd\x00\x38" + b"".join(blocks)


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.ZSTD])
def test_output_comes_in_bounded_pieces(kind: Compression) -> None:
    stream = Decompressor(kind, DEFAULT)
    sizes = [len(piece) for piece in stream.feed(_zeros(kind, 48 * MIB))]
    stream.finish()
    assert sum(sizes) == 48 * MIB
    assert max(sizes) <= 4 * MIB


def test_zeros_are_no_bomb() -> None:
    """A lastlog of a large uid, in zstd: 300 MiB in some kilobytes."""
    packed = _zeros(Compression.ZSTD, 300 * MIB)
    stream = Decompressor(Compression.ZSTD, DEFAULT)
    sizes = [len(piece) for piece in stream.feed(packed)]
    stream.finish()
    assert sum(sizes) == 300 * MIB
    assert len(packed) < 10_000
    assert max(sizes) <= 4 * MIB


@pytest.mark.parametrize("kind", Compression)
def test_a_layer_over_the_limit_is_stopped(kind: Compression) -> None:
    packed = {Compression.NONE: _TEXT, Compression.GZIP: _gzip(_TEXT), Compression.ZSTD: _zstd(_TEXT)}[kind]
    with pytest.raises(LimitExceeded, match="more than 5000 bytes"):
        _inflate(packed, kind, limits=replace(DEFAULT, layer_uncompressed=5000))


@pytest.mark.parametrize(
    "header",
    [
        b"\x00\x99",
        b"\xe0" + struct.pack("<Q", 1 << 40),
        b"\xa3" + bytes(4) + struct.pack("<I", 1 << 31),
    ],
    ids=["window descriptor", "single segment", "single segment with a dictionary"],
)
def test_a_frame_that_needs_much_memory_is_refused(header: bytes) -> None:
    with pytest.raises(LimitExceeded, match="window"):
        Decompressor(Compression.ZSTD, DEFAULT).decompress(b"\x28\xb5\x2f\xfd" + header)


@pytest.mark.parametrize("log", [27, 28, 29])
def test_windows_that_containerd_takes(log: int) -> None:
    """``zstd --long=29``; the window descriptor is of RFC 8878 section 3.1.1.1.2. One raw block behind it."""
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + b"\x19\x00\x00abc"
    assert _inflate(frame, Compression.ZSTD) == b"abc"


def test_empty_streams() -> None:
    for packed in (_gzip(b""), _gzip(b"") * 3):
        assert _inflate(packed, Compression.GZIP) == b""
    for packed in (_zstd(b""), _streamed_zstd(b""), _skippable(b"x"), _skippable(b"") + _zstd(b"") * 2):
        assert _inflate(packed, Compression.ZSTD) == b""


def test_a_small_single_segment_frame() -> None:
    """The content size of two bytes counts from 256."""
    packed = _zstd(_NOISE[:1000])
    assert packed[4] >> 6 == 1
    assert _inflate(packed, Compression.ZSTD, 3) == _NOISE[:1000]
