"""GNU sparse files with PAX headers (formats 0.0, 0.1 and 1.0): which pieces of a file the tar has.

Old GNU sparse entries (type ``S``) are refused by the reader, as containerd refuses them. It must not read content,
except the map that format 1.0 puts in front of it. Source: ``archive/tar/reader.go`` (readGNUSparsePAXHeaders and
below), ``common.go`` (validateSparseEntries); GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from imagecache.errors import LimitExceeded
from imagecache.layer.pax import SPARSE_MAP, Records
from imagecache.layer.tar_entry import TarEntry, quoted
from imagecache.layer.tar_header import BLOCK
from imagecache.layer.tar_numbers import INT64_MAX, decimal
from imagecache.limits import Limits
from imagecache.tree import Segment

_ReadBlock = Callable[[], bytes]
"""Returns the next 512 bytes of the entry's content. Raises ValueError at its end."""


def sparse_format(records: Records) -> str:
    """``0.1``, ``1.0``, or empty for a file that is not sparse, or of a version that Go does not know."""
    major, minor = records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b"")
    if major == b"0" and minor in {b"0", b"1"}:
        return "0.1"
    if (major, minor) == (b"1", b"0"):
        return "1.0"
    # Format 0.0 has no version records; ``pax.parse_records`` has turned its pairs into a map.
    return "0.1" if not major and not minor and records.get(SPARSE_MAP) else ""


def apply_names(entry: TarEntry, records: Records) -> None:
    """Set the real name and size of a sparse file; the tar header has those of the stored data."""
    entry.name = records.get(b"GNU.sparse.name") or entry.name
    if b"\0" in entry.name:
        raise ValueError("a name with a NUL")
    size = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
    if size:
        entry.size = decimal(size)


def map_from_records(records: Records, limits: Limits) -> list[int]:
    """Format 0.1: offsets and lengths in turn, from one record."""
    count = decimal(records.get(b"GNU.sparse.numblocks", b""))
    text = records.get(SPARSE_MAP, b"")
    numbers = text.split(b",") if text else []
    if len(numbers) != 2 * count:
        raise ValueError("a sparse map whose length differs from its count")
    _check_count(count, limits)
    return [decimal(number) for number in numbers]


def map_from_content(read_block: _ReadBlock, limits: Limits) -> tuple[list[int], int]:
    """Format 1.0: a count, then offsets and lengths, one a line, in whole blocks. Also returns the bytes read."""
    text = bytearray(read_block())
    while b"\n" not in text:
        _grow(text, read_block, limits)
    count = decimal(bytes(text[: text.index(b"\n")]))
    if count < 0:
        raise ValueError("a sparse map of negative length")
    _check_count(count, limits)
    newlines = text.count(b"\n")
    while newlines < 2 * count + 1:
        newlines += _grow(text, read_block, limits)
    lines = bytes(text).split(b"\n")
    return [decimal(line) for line in islice(lines, 1, 2 * count + 1)], len(text)


def _grow(text: bytearray, read_block: _ReadBlock, limits: Limits) -> int:
    """Append another block; returns the number of newlines in it."""
    if len(text) + BLOCK > limits.tar_header_records:
        raise LimitExceeded(f"a sparse map takes more than {limits.tar_header_records} bytes")
    block = read_block()
    text += block
    return block.count(b"\n")


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.sparse_segments:
        raise LimitExceeded(f"a sparse file has {count} pieces, over the limit of {limits.sparse_segments}")


def segments(entry: TarEntry, numbers: list[int], stored: int) -> tuple[Segment, ...]:
    """The pieces, which lie in the tar from ``entry.data`` on; together they must be exactly ``stored`` bytes."""
    pieces: list[Segment] = []
    source, end = entry.data, 0
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        if offset < end or length < 0 or offset > INT64_MAX - length or offset + length > entry.size:
            raise ValueError(f"the sparse map of {quoted(entry.name)} has pieces that overlap or pass the end")
        if length:
            pieces.append(Segment(offset, source, length))
        source += length
        end = offset + length
    if entry.size < 0 or source - entry.data != stored:
        raise ValueError(f"the sparse map of {quoted(entry.name)} does not match the stored bytes")
    return tuple(pieces)
