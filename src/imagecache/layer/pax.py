"""PAX extended headers: records to a dictionary, and a dictionary over an entry.

Only local headers have an effect; a global one is checked for its syntax. It must not read a source. Source:
``archive/tar/reader.go`` (parsePAX, mergePAX), ``strconv.go`` (parsePAXRecord).
"""

from __future__ import annotations

from functools import lru_cache

from imagecache.layer.tar_entry import TarEntry
from imagecache.layer.tar_numbers import decimal, pax_time

Records = dict[bytes, bytes]

SPARSE_MAP = b"GNU.sparse.map"
_SPARSE_OFFSET = b"GNU.sparse.offset"
_SPARSE_LENGTH = b"GNU.sparse.numbytes"
_XATTR = b"SCHILY.xattr."
_TEXT_KEYS = frozenset({b"path", b"linkpath", b"uname", b"gname"})


def parse_records(body: bytes) -> Records:
    """Parse ``length key=value`` lines. The pairs of sparse format 0.0 become the map of 0.1. Raises ValueError."""
    records: Records = {}
    sparse: list[bytes] = []
    at = 0
    while at < len(body):
        key, value, at = _record(body, at)
        if key in {_SPARSE_OFFSET, _SPARSE_LENGTH}:
            # Format 0.0 repeats two keys in turn, so order matters here and nowhere else.
            expected = _SPARSE_LENGTH if len(sparse) % 2 else _SPARSE_OFFSET
            if key != expected or b"," in value:
                raise ValueError("a sparse map out of order")
            sparse.append(value)
        else:
            records[key] = value
    if sparse:
        records[SPARSE_MAP] = b",".join(sparse)
    return records


_length = lru_cache(maxsize=1 << 10)(decimal)
"""Cached: most records of a layer have a length of two digits, and a hit costs a tenth of parsing."""


def _record(body: bytes, start: int) -> tuple[bytes, bytes, int]:
    """Key, value and the position behind the record that starts at ``start``."""
    space = body.find(b" ", start)
    if space < 0:
        raise ValueError("a PAX record without a length")
    end = start + _length(body[start:space])
    # 5 is the shortest record, "5 a=" and a newline, as in Go.
    if end - start < 5 or end > len(body) or end <= space + 1 or body[end - 1] != 0x0A:
        raise ValueError("a PAX record with a wrong length")
    key, equals, value = body[space + 1 : end - 1].partition(b"=")
    if not key or not equals or b"\0" in key or (key in _TEXT_KEYS and b"\0" in value):
        raise ValueError("a PAX record without a key, or with a NUL")
    return key, value, end


def merge(entry: TarEntry, records: Records) -> None:
    """Let the records override the header. An empty value overrides nothing. Raises ValueError."""
    xattrs: dict[bytes, bytes] = {}
    for key, value in records.items():
        if key.startswith(_XATTR):
            xattrs[key[len(_XATTR) :]] = value
        elif value:  # POSIX: an empty value deletes the record, so the header's own stays
            _override(entry, key, value)
    if xattrs:
        entry.xattrs = xattrs


def _override(entry: TarEntry, key: bytes, value: bytes) -> None:
    match key:
        case b"path":
            entry.name = value
        case b"linkpath":
            entry.target = value
        case b"uid":
            entry.uid = decimal(value)
        case b"gid":
            entry.gid = decimal(value)
        case b"size":
            entry.size = decimal(value)
        case b"mtime":
            entry.mtime, entry.mtime_nsec = pax_time(value)
        case b"atime" | b"ctime":
            pax_time(value)  # not used, but a malformed one fails the pull
        case _:
            pass
