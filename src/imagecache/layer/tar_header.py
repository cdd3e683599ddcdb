"""One 512-byte tar header to a ``TarEntry``, in Go's ``archive/tar`` reading of v7, ustar, PAX, STAR and GNU.

It is the hot spot of a conversion: a layer has one header per file. Numbers are cached by field
(``tar_numbers.numeric``), and the checksum of an ASCII header comes from Adler-32, whose low half is the byte sum. It
must not read a source. Source: ``archive/tar/reader.go`` (readHeader) and ``format.go``.
"""

from __future__ import annotations

from zlib import adler32

from imagecache.errors import MalformedLayer
from imagecache.layer.tar_entry import TarEntry
from imagecache.layer.tar_numbers import numeric, octal

BLOCK = 512

_USTAR = b"ustar\0"
_GNU = b"ustar  \0"
_STAR_TRAILER = b"tar\0"


def parse_header(block: bytes, position: int) -> TarEntry:
    """The entry of the header ``block``, which lies at ``position`` in the tar. Raises MalformedLayer."""
    try:
        _check_sum(block)
        return _fields(block, position + BLOCK)
    except ValueError as error:
        raise MalformedLayer(f"tar header at byte {position}: {error}") from error


def _check_sum(block: bytes) -> None:
    """Raise ValueError unless the sum of the bytes is the stored one.

    It counts its own eight bytes as spaces; old Sun tars summed signed bytes.
    """
    stored = octal(block[148:156])
    # Adler-32's low half is 1 + the byte sum modulo 65,521. 512 ASCII bytes sum to 65,024 at most, so nothing is lost;
    # in C it is some ten times faster than sum().
    if block.isascii():
        right = stored == (adler32(block) & 0xFFFF) - 1 - sum(block[148:156]) + 256
    else:
        counted = block[:148] + b" " * 8 + block[156:]
        unsigned = sum(counted)
        right = stored in {unsigned, unsigned - 256 * sum(byte >= 0x80 for byte in counted)}
    if not right:
        raise ValueError("wrong checksum")


def _fields(block: bytes, data: int) -> TarEntry:
    # By position: keywords make the call half as slow again, and it runs once for each file of a layer.
    entry = TarEntry(
        block[:100].partition(b"\0")[0],
        block[156],
        numeric(block[100:108]),
        numeric(block[108:116]),
        numeric(block[116:124]),
        numeric(block[136:148]),
        0,
        numeric(block[124:136]),
        data,
    )
    if block[157]:  # most entries have no target: the slice is spared
        entry.target = block[157:257].partition(b"\0")[0]
    magic = block[257:265]
    if magic == _GNU or magic[:6] == _USTAR:
        entry.major = numeric(block[329:337])
        entry.minor = numeric(block[337:345])
        if block[345] or block[508]:
            prefix = _gnu_prefix(block) if magic == _GNU else _ustar_prefix(block)
            if prefix:
                entry.name = prefix + b"/" + entry.name
    return entry


def _ustar_prefix(block: bytes) -> bytes:
    """STAR has a shorter prefix and two times behind it; they are not used, but Go checks them."""
    if block[508:512] == _STAR_TRAILER:
        numeric(block[476:488])
        numeric(block[488:500])
        return block[345:476].partition(b"\0")[0]
    return block[345:500].partition(b"\0")[0]


def _gnu_prefix(block: bytes) -> bytes:
    """GNU has times there, but Go's writer before 1.8 wrote a prefix; Go's reader still accepts an ASCII one."""
    try:
        numeric(block[345:357])
        if block[357]:
            numeric(block[357:369])
    except ValueError:
        prefix = block[345:500].partition(b"\0")[0]
        return prefix if prefix.isascii() else b""
    return b""
