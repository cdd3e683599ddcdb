"""A tar to its entries, with the tolerance and the strictness of Go's ``archive/tar``.

containerd unpacks with that reader, so this one accepts what it accepts and refuses what it refuses: v7, ustar, PAX,
GNU long names, base-256 numbers, PAX sparse files, archives without end blocks. Content is skipped, never read, except
for the map of a sparse file of format 1.0. It must not judge what a name or a type means for a tree. Source:
``docs/internals/unpack-rules.md`` §15, ``docs/adr/0004-tar-reader.md``; ``archive/tar/reader.go``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.layer import pax, sparse
from imagecache.layer import tar_entry as types
from imagecache.layer.budget import Budget
from imagecache.layer.tar_entry import HEADER_ONLY, TarEntry, quoted
from imagecache.layer.tar_header import BLOCK, PlainFile, parse_header, plain_file
from imagecache.limits import Limits

_ZEROS = bytes(BLOCK)
_EXTENDED = 8
"""Steps for an extended header as such."""
_PIECE = 208
"""Bytes of one piece of a sparse file, and of the choice of its chunks; their table is never whole in memory."""
_XATTR = 200
"""Bytes of one extended attribute besides its name and value."""
_META = frozenset({types.PAX_LOCAL, types.PAX_GLOBAL, types.GNU_LONG_NAME, types.GNU_LONG_LINK})
_SPECIAL = _META | {types.GNU_SPARSE, types.V7_FILE}
"""What is not yet an entry when its header is read."""


class TarSource(Protocol):
    """The uncompressed tar, read front to back. Positions are bytes from its start."""

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes, fewer only at the end of the stream."""

    def skip(self, size: int) -> int:
        """Skip ``size`` bytes and return how many there were (fewer only at the end)."""

    def tell(self) -> int:
        """Position of the next byte."""


TakePlain = Callable[[PlainFile, int], bool]
"""Gets a regular file and where its content lies; False when it wants the entry instead."""


def entries(source: TarSource, limits: Limits, budget: Budget, take: TakePlain | None = None) -> Iterator[TarEntry]:
    """Every entry in order. Stops behind the end blocks; what follows them stays in the source.

    ``budget`` counts the entries, and what those with extended headers carry. ``take`` is asked first for files that
    are no more than their header: an entry costs as much as all else of them.

    Raises MalformedLayer and LimitExceeded. Global PAX headers are entries of type ``g``: containerd creates nothing
    for them, but their names have effects.
    """
    return _Reader(source, limits, budget).entries(take)


class _Reader:
    def __init__(self, source: TarSource, limits: Limits, budget: Budget) -> None:
        self._source = source
        self._limits = limits
        self._budget = budget
        self._position = 0
        """Of the last header."""
        self._pending = 0
        """Bytes of the last entry's content that are not read yet."""
        self._padding = 0
        """Bytes behind them up to the next block."""
        self._claimed = 0
        """Sum of the sizes of sparse files, with their holes: a few bytes of tar may claim any size."""

    def entries(self, take: TakePlain | None) -> Iterator[TarEntry]:
        """As ``entries``."""
        while (block := self._block()) is not None:
            plain = None if take is None else plain_file(block)
            if plain is not None and take is not None:
                self._budget.enter()
                if take(plain, self._position + BLOCK):
                    self._pending = size = plain[4]
                    self._padding = -size % BLOCK
                else:
                    yield self._parse(block)
                continue
            entry = self._parse(block)
            if entry.type not in _SPECIAL:
                self._budget.enter()
                yield entry
            elif (finished := self._finish(entry)) is not None:
                yield finished
            else:
                return

    def _finish(self, entry: TarEntry) -> TarEntry | None:
        """The entry that headers before its own say more about; None when the archive ends before it."""
        records: pax.Records | None = None
        long_name = long_link = b""
        while entry.type in _META:
            body = self._body(entry)
            if entry.type == types.GNU_LONG_NAME:
                long_name = body.partition(b"\0")[0]
            elif entry.type == types.GNU_LONG_LINK:
                long_link = body.partition(b"\0")[0]
            else:
                records = self._records(entry, body)
                if entry.type == types.PAX_GLOBAL:  # an entry by its name alone
                    self._budget.enter()
                    return TarEntry(records.get(b"path") or entry.name, entry.type, 0, 0, 0, 0, 0, 0, entry.data)
            block = self._block()
            if block is None:
                return None
            entry = self._parse(block)
        if entry.type == types.GNU_SPARSE:
            raise MalformedLayer(
                f"tar entry {quoted(entry.name)} is an old GNU sparse file, which containerd refuses too"
            )
        return self._merge(entry, records, long_name, long_link)

    def _block(self) -> bytes | None:
        """The next header, or None at the end of the archive."""
        wanted = self._pending + self._padding
        if wanted:
            skipped = self._source.skip(wanted)  # one call for both: once for each file of a layer
            if skipped < self._pending:
                raise MalformedLayer(f"the tar ends at byte {self._source.tell()}, in the content of an entry")
            if skipped < wanted:  # the last padding may be missing: Go takes that for the end, too
                return None
            self._pending = self._padding = 0
        self._position = self._source.tell()
        block = self._source.read(BLOCK)
        if len(block) < BLOCK or block == _ZEROS:
            self._check_end(block)
            return None
        return block

    def _parse(self, block: bytes) -> TarEntry:
        entry = parse_header(block, self._position)
        self._set_content(entry)
        return entry

    def _check_end(self, block: bytes) -> None:
        """The archive ends with the stream, or with one zero block, or with two."""
        if block == _ZEROS:
            block = self._source.read(BLOCK)
        if block not in {b"", _ZEROS}:
            kind = "a header" if len(block) == BLOCK else "a piece of a header"
            raise MalformedLayer(f"the tar ends at byte {self._source.tell()} with {kind} where the end should be")

    def _set_content(self, entry: TarEntry) -> None:
        if entry.type in HEADER_ONLY:
            self._pending = self._padding = 0
            return
        if entry.size < 0:
            raise MalformedLayer(f"tar entry {quoted(entry.name)} has a negative size")
        self._pending = entry.size
        self._padding = -entry.size % BLOCK

    def _body(self, entry: TarEntry) -> bytes:
        """The content of a PAX header or a GNU long name."""
        limit = self._limits.tar_header_records
        if entry.size > limit:
            raise LimitExceeded(f"an extended tar header of {entry.size} bytes is over the limit of {limit}")
        body = self._source.read(entry.size)
        if len(body) < entry.size:
            raise MalformedLayer(f"the tar ends at byte {self._source.tell()}, in an extended header")
        # A record ends with a newline, and takes as long as four components of a path.
        self._budget.step(_EXTENDED + 4 * body.count(b"\n") + len(body) // 256)
        self._pending = 0
        return body

    @staticmethod
    def _records(entry: TarEntry, body: bytes) -> pax.Records:
        try:
            return pax.parse_records(body)
        except ValueError as error:
            raise MalformedLayer(f"PAX header {quoted(entry.name)} at byte {entry.data}: {error}") from error

    def _merge(self, entry: TarEntry, records: pax.Records | None, long_name: bytes, long_link: bytes) -> TarEntry:
        self._budget.enter()
        try:
            if records:
                pax.merge(entry, records)
            # GNU names win over PAX ones when a tar has both, as in Go.
            entry.name = long_name or entry.name
            entry.target = long_link or entry.target
            if entry.type == types.V7_FILE:
                entry.type = types.DIRECTORY if entry.name.endswith(b"/") else types.FILE
                self._set_content(entry)
            if records:  # again: a PAX size replaces that of the header
                self._set_content(entry)
                self._set_sparse(entry, records)
            if records or long_name or long_link:
                self._budget.keep(_carried(entry))
        except ValueError as error:
            raise MalformedLayer(f"tar entry {quoted(entry.name)}: {error}") from error
        return entry

    def _set_sparse(self, entry: TarEntry, records: pax.Records) -> None:
        form = sparse.sparse_format(records)
        if not form:
            return
        sparse.apply_names(entry, records)
        if entry.type in HEADER_ONLY:
            raise ValueError("only a file can be sparse")
        if form == "1.0":
            numbers, taken = sparse.map_from_content(self._map_block, self._limits)
            entry.data += taken
        else:
            numbers = sparse.map_from_records(records, self._limits)
        self._budget.step(len(numbers))
        self._budget.keep(len(numbers) // 2 * _PIECE)
        entry.sparse = sparse.segments(entry, numbers, self._pending)
        self._claimed += entry.size
        if self._claimed > self._limits.layer_uncompressed:
            raise LimitExceeded(f"sparse files have more than {self._limits.layer_uncompressed} bytes with their holes")

    def _map_block(self) -> bytes:
        if self._pending < BLOCK:
            raise ValueError("the sparse map is cut short")
        block = self._source.read(BLOCK)
        if len(block) < BLOCK:
            raise ValueError("the tar ends in a sparse map")
        self._pending -= BLOCK
        return block


def _carried(entry: TarEntry) -> int:
    """Bytes of what an entry can have only by an extended header."""
    size = len(entry.name) + len(entry.target)
    for key, value in (entry.xattrs or {}).items():
        size += _XATTR + len(key) + len(value)
    return size
