"""Compressed bytes to uncompressed ones: gzip, zstd or neither, detected by the first bytes as containerd does.

Output has bounded pieces however much the input expands, and more of it than the limits allow is an error. A ratio is
none: zeros in zstd rightly take thousands of times less than they are. The libraries release Python's lock while they
work. It must not hash, write or know a tar. Source: containerd ``pkg/archive/compression``; Go ``compress/gzip``
(multistream); RFC 1952, RFC 8878.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Protocol, cast

import zstandard
from isal import igzip_lib

from imagecache.errors import LimitExceeded, MalformedLayer, UnsupportedMediaType
from imagecache.layer.zstd_frames import BLOCK_MAXIMUM, FrameWalker
from imagecache.limits import MIB, Limits

Bytes = bytes | memoryview

_PIECE = 4 * MIB
"""The largest piece of output. The queues between a conversion's threads hold pieces, so it bounds their memory."""
_INPUT_SLICE = 128 * 1024
"""gzip input of one step. The bytes behind a member's end are copied, so a large slice would copy much."""

_GZIP = b"\x1f\x8b\x08"
_ZSTD = b"\x28\xb5\x2f\xfd"
_REFUSED = {b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2"}
"""Not refused by their magic, they would be read as a tar and fail with a message that helps nobody."""

_GzipError = cast("type[Exception]", igzip_lib.IsalError)
"""The type stub of isal declares an instance, which ``except`` cannot name."""


class Compression(enum.Enum):
    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


def sniff(head: bytes) -> Compression:
    """The compression by the first 10 bytes. Raises UnsupportedMediaType for those that containerd cannot unpack."""
    if head.startswith(_GZIP):
        return Compression.GZIP
    # A zstd stream may begin with a skippable frame: magic 0x184D2A50 to 0x184D2A5F (RFC 8878 section 3.1.2).
    if head.startswith(_ZSTD) or (len(head) >= 8 and head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return Compression.ZSTD
    for magic, name in _REFUSED.items():
        # "BZh" alone may be the name of a tar's first file: bzip2 has the magic of a block behind it.
        if head.startswith(magic) and (name == "xz" or head[4:10] == b"1AY&SY"):
            raise UnsupportedMediaType(
                f"the layer is compressed with {name}", hint="layers may be compressed with gzip or zstd, or not at all"
            )
    return Compression.NONE


class _Codec(Protocol):
    def feed(self, chunk: memoryview) -> Iterator[bytes]:
        """The output of ``chunk``, in pieces of at most about 4 MiB. Raises MalformedLayer, LimitExceeded."""

    def finished(self) -> bool:
        """The stream may end here."""


class _Plain:
    def feed(self, chunk: memoryview) -> Iterator[bytes]:
        yield bytes(chunk)

    def finished(self) -> bool:
        return True


class _Gzip:
    """Members one after another, as Go's ``compress/gzip`` reads them: anything else behind a member is an error."""

    def __init__(self) -> None:
        self._member: igzip_lib.IgzipDecompressor | None = None

    def feed(self, chunk: memoryview) -> Iterator[bytes]:
        for start in range(0, len(chunk), _INPUT_SLICE):
            data: Bytes = chunk[start : start + _INPUT_SLICE]
            while data:
                member = self._member = self._member or igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
                yield self._inflate(member, data)
                while not (member.eof or member.needs_input):  # more output than one piece: ask for the rest
                    yield self._inflate(member, b"")
                data = b""
                if member.eof:
                    self._member = None
                    data = member.unused_data  # of this slice: a next member, or nothing

    @staticmethod
    def _inflate(member: igzip_lib.IgzipDecompressor, data: Bytes) -> bytes:
        try:
            piece: bytes = member.decompress(data, _PIECE)
        except _GzipError as error:
            raise MalformedLayer(f"the layer's gzip stream is broken: {error}") from error
        return piece

    def finished(self) -> bool:
        return self._member is None


class _Zstd:
    """Frames one after another; skippable ones are skipped."""

    def __init__(self, limits: Limits) -> None:
        self._walker = FrameWalker(limits.zstd_window)
        decompressor = zstandard.ZstdDecompressor(max_window_size=limits.zstd_window)
        self._frames = decompressor.decompressobj(write_size=_PIECE // 4, read_across_frames=True)

    def feed(self, chunk: memoryview) -> Iterator[bytes]:
        start = 0
        for end in self._walker.cuts(chunk, _PIECE // BLOCK_MAXIMUM):
            try:
                piece = self._frames.decompress(chunk[start:end])
            except zstandard.ZstdError as error:
                raise MalformedLayer(f"the layer's zstd stream is broken: {error}") from error
            start = end
            yield piece

    def finished(self) -> bool:
        return self._walker.at_frame_end


class Decompressor:
    """One layer's stream: ``feed`` (or ``decompress``) every chunk in order, then ``finish``."""

    def __init__(self, compression: Compression, limits: Limits) -> None:
        self._codec: _Codec
        if compression is Compression.ZSTD:
            self._codec = _Zstd(limits)
        else:
            self._codec = _Gzip() if compression is Compression.GZIP else _Plain()
        self._compression = compression
        self._limits = limits
        self.consumed = 0
        """Bytes fed."""
        self.produced = 0
        """Bytes yielded."""

    def feed(self, chunk: Bytes) -> Iterator[bytes]:
        """The output of a chunk in pieces of at most 4 MiB; take them all.

        Raises MalformedLayer, LimitExceeded.
        """
        self.consumed += len(chunk)
        if not chunk:
            return
        for piece in self._codec.feed(memoryview(chunk)):
            self.produced += len(piece)
            check_growth(self.produced, self._limits)
            if piece:
                yield piece

    def decompress(self, chunk: Bytes) -> bytes:
        """The whole output of a chunk at once: for small input only."""
        return b"".join(self.feed(chunk))

    def finish(self) -> None:
        """The input has ended. Raises MalformedLayer unless the stream has, too."""
        if not self._codec.finished():
            raise MalformedLayer(f"the layer's {self._compression.value} stream is cut off after {self.consumed} bytes")


def check_growth(produced: int, limits: Limits) -> None:
    """Raises LimitExceeded when a layer has so many bytes uncompressed."""
    if produced > limits.layer_uncompressed:
        raise LimitExceeded(f"the layer has more than {limits.layer_uncompressed} bytes uncompressed")
