"""One 512-byte tar header to a ``TarEntry``, in Go's ``archive/tar`` reading of v7, ustar, PAX, STAR and GNU.

It is the hot spot of a conversion: a layer has one header per file. Fields that repeat from file to file are cached as
they stand (mode and owner, size, time, and what follows the target), and the checksum of an ASCII header comes from
Adler-32, whose low half is the byte sum. It must not read a source. Source: ``archive/tar/reader.go`` (readHeader) and
``format.go``.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import NamedTuple
from zlib import adler32

from imagecache.errors import MalformedLayer
from imagecache.layer.tar_entry import FILE, TarEntry
from imagecache.layer.tar_numbers import numeric, octal

BLOCK = 512

_USTAR = b"ustar\0"
_GNU = b"ustar  \0"
_STAR_TRAILER = b"tar\0"
_HEADER = Struct("100s 24s 12s 12s 8s B 100x 88s 167x")
"""Name; mode, uid, gid; size; time; checksum; type; magic, names of the owner, device."""
_SUM = 148
_TARGET = 157
_BEHIND = 345
"""A prefix, or GNU's times."""
_TRAILER = 508


def parse_header(block: bytes, position: int) -> TarEntry:
    """The entry of the header ``block``, which lies at ``position`` in the tar. Raises MalformedLayer."""
    try:
        return _fields(block, position + BLOCK)
    except ValueError as error:
        raise MalformedLayer(f"tar header at byte {position}: {error}") from error


def _fields(block: bytes, data: int) -> TarEntry:
    name, attributes, size, mtime, checksum, kind, form = _HEADER.unpack(block)
    if not _is_sum(block, _stored_sum(checksum)):
        raise ValueError("wrong checksum")
    mode, uid, gid = _attributes(attributes)
    # By position: keywords make the call half as slow again, and it runs once for each file of a layer.
    entry = TarEntry(name.partition(b"\0")[0], kind, mode, uid, gid, numeric(mtime), 0, numeric(size), data)
    if block[_TARGET]:
        entry.target = block[_TARGET : _TARGET + 100].partition(b"\0")[0]
    gnu, ustar, entry.major, entry.minor = _form(form)
    if (block[_BEHIND] or block[_TRAILER]) and (gnu or ustar):
        prefix = _gnu_prefix(block) if gnu else _ustar_prefix(block)
        if prefix:
            entry.name = prefix + b"/" + entry.name
    return entry


PlainFile = tuple[bytes, int, int, int, int, int]
"""Name, mode, owner, group, size and time of a regular file. The numbers are not negative; owners have 24 bits."""


def plain_file(block: bytes) -> PlainFile | None:
    """What most headers are: a regular file in ASCII that needs no other field. None: ``parse_header`` has to look."""
    name, attributes, size, mtime, checksum, kind, form = _HEADER.unpack(block)
    if kind != FILE or block[_BEHIND] or block[_TRAILER] or not block.isascii():
        return None
    try:
        if not _is_sum(block, _stored_sum(checksum)):
            return None
        _form(form)
        mode, uid, gid = _attributes(attributes)
        return name.partition(b"\0")[0], mode, uid, gid, numeric(size), numeric(mtime)
    except ValueError:
        return None


def _is_sum(block: bytes, stored: int) -> bool:
    """Whether the bytes have that sum; old Sun tars summed signed bytes."""
    # Adler-32's low half is 1 + the byte sum modulo 65,521. 512 ASCII bytes sum to 65,024 at most, so nothing is lost;
    # in C it is some ten times faster than sum().
    if block.isascii():
        return stored == (adler32(block) & 0xFFFF) - 1
    unsigned, high = sum(block), sum(byte >= 0x80 for byte in block[:_SUM] + block[_SUM + 8 :])
    return stored in {unsigned, unsigned - 256 * high}


@lru_cache(maxsize=1 << 12)
def _stored_sum(field: bytes) -> int:
    """The sum of all bytes of a header with this checksum, which counts its own eight bytes as spaces."""
    return octal(field) + sum(field) - 8 * ord(" ")


@lru_cache(maxsize=1 << 12)
def _attributes(fields: bytes) -> tuple[int, int, int]:
    """Mode, owner and group."""
    return numeric(fields[:8]), numeric(fields[8:16]), numeric(fields[16:])


class _Form(NamedTuple):
    gnu: bool
    ustar: bool
    """Also PAX and STAR."""
    major: int = 0
    minor: int = 0


@lru_cache(maxsize=1 << 12)
def _form(fields: bytes) -> _Form:
    """From the magic to the device's numbers. v7, which has no magic, has neither them nor a prefix."""
    gnu, ustar = fields[:8] == _GNU, fields[:6] == _USTAR
    return _Form(gnu, ustar, numeric(fields[72:80]), numeric(fields[80:])) if gnu or ustar else _Form(gnu, ustar)


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
