"""Directory blocks of EROFS. Pure.

A block holds 12-byte entries and behind them their names, in the order of the entries. The first entry's name offset
gives the number of entries, and the last name ends with the block or before the first zero byte. Entries are sorted
bytewise over the whole directory, ``.`` and ``..`` among them, because the kernel looks names up by binary search.
Source: Linux ``fs/erofs/dir.c`` and ``namei.c``. It must not know where a block lies.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from imagecache.erofs.format import DIRENT
from imagecache.errors import MalformedLayer

MAX_NAME = 255
"""EROFS_NAME_LEN, which is NAME_MAX."""


class Entry(NamedTuple):
    name: bytes
    nid: int
    file_type: int


def used(names: Sequence[bytes]) -> int:
    """Bytes that a block with these names takes."""
    return DIRENT.size * len(names) + sum(map(len, names))


def split(names: Sequence[bytes], block_size: int) -> list[int]:
    """Indices at which a new block starts, 0 first, for sorted ``names``: every block takes as many as fit."""
    starts = [0]
    if used(names) <= block_size:
        return starts
    full = 0
    for index, name in enumerate(names):
        full += DIRENT.size + len(name)
        if full > block_size:
            starts.append(index)
            full = DIRENT.size + len(name)
    return starts


# A block of 4096 bytes has at most 315 entries, so the cache stays small; building the format is slower than packing.
@cache
def _entries(count: int) -> struct.Struct:
    return struct.Struct("<" + "QHBB" * count)


def pack(entries: Sequence[tuple[bytes, int, int]]) -> bytes:
    """One block, not padded. An entry is the tuple that ``Entry`` is."""
    fields: list[int] = []
    offset = DIRENT.size * len(entries)
    for name, nid, file_type in entries:
        fields += (nid, offset, file_type, 0)
        offset += len(name)
    return _entries(len(entries)).pack(*fields) + b"".join([entry[0] for entry in entries])


def unpack(block: bytes) -> list[Entry]:
    """The entries of one block. Raises MalformedLayer unless names are sorted, legal and inside the block."""
    if len(block) < DIRENT.size:
        raise MalformedLayer("a directory block is too short for an entry")
    # The first name begins where the entries end, so its offset is the size of the entries.
    first = DIRENT.unpack_from(block)[1]
    if first < DIRENT.size or first % DIRENT.size or first > len(block):
        raise MalformedLayer("the first entry of a directory block has a bad name offset")
    records = list(DIRENT.iter_unpack(block[:first]))
    ends = [record[1] for record in records[1:]] + [len(block.rstrip(b"\0"))]
    return _named(block, records, ends)


def _named(block: bytes, records: Sequence[tuple[int, int, int, int]], ends: Sequence[int]) -> list[Entry]:
    result: list[Entry] = []
    previous = b""
    for (nid, start, file_type, reserved), end in zip(records, ends, strict=True):
        name = block[start:end]
        if not (len(records) * DIRENT.size <= start < end <= len(block)) or reserved:
            raise MalformedLayer("a directory entry has a name outside of its block")
        if len(name) > MAX_NAME or b"/" in name or b"\0" in name or name <= previous:
            raise MalformedLayer(f"a directory entry has an illegal or unsorted name: {name[:80]!r}")
        result.append(Entry(name, nid, file_type))
        previous = name
    return result
