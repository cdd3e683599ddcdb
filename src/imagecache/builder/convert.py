"""One layer from compressed bytes to a layer image, in one pass.

Four threads work at once, and their heavy parts release the interpreter lock: one reads and hashes the compressed
bytes, one decompresses, one (the caller's) parses the tar and assembles the tree, one hashes and writes the tar.
Nothing is extracted, and the queues between the threads bound the memory. It works on file descriptors alone, so that a
process without privileges can run it. It must not know names, stores or registries.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Iterator

import msgspec

from imagecache.builder.converted import Converted
from imagecache.builder.position import is_right_everywhere
from imagecache.builder.writeback import WriteBehind
from imagecache.digest import DiffID, Digest
from imagecache.erofs.layer_header import DATA_START, LayerFlags, LayerHeader
from imagecache.erofs.writer import write_image
from imagecache.errors import ContentError, DigestMismatch, StoreError
from imagecache.layer.assemble import LayerTree, assemble
from imagecache.layer.compression import Compression, Decompressor, sniff
from imagecache.layer.tar_sources import ChunkSource
from imagecache.limits import Limits

_QUEUED_PIECES = 4
"""Pieces of at most 4 MiB each between two threads: enough to even out their speeds, and little memory."""


def convert(
    chunks: Iterator[bytes],
    fd: int,
    *,
    bottom: bool,
    limits: Limits,
    blob: Digest | None = None,
    diff_id: DiffID | None = None,
) -> Converted:
    """Convert the compressed ``chunks`` of ``blob`` into the empty, writable file ``fd``.

    ``blob`` and ``diff_id`` are the expected digests, where they are known. Raises DigestMismatch when one is wrong,
    ImageTooLarge when the tar has more bytes than ``limits.layer_room``, and the ContentError family for the content of
    the layer.
    """
    reader = _Reader(chunks, blob.algorithm if blob else "sha256")
    inflater = _Inflater(reader.out, limits)
    writer = _TarWriter(fd)
    for thread in (reader, inflater, writer):
        thread.start()
    try:
        tree = _assemble(inflater, writer, bottom=bottom, limits=limits)
    except ContentError:
        inflater.out.abandon()
        reader.join()
        # Read to the end first: when the blob is not the promised one, that is the error, and a new download may help.
        _check("blob", reader.digest, blob)
        raise
    finally:
        # Every thread ends on every path: each is stopped or drained before it is joined.
        reader.stop.set()
        inflater.out.abandon()
        writer.finish()
        inflater.join()
        reader.join()
    _check("blob", reader.digest, blob)
    found = DiffID(Digest(f"sha256:{writer.hash.hexdigest()}"))
    _check("uncompressed layer", found, diff_id)
    header = header_of(tree, writer.size, found, bottom=bottom)
    converted = Converted(header=header) if tree.implied and not bottom else finish(fd, tree, header)
    return msgspec.structs.replace(converted, compression=inflater.compression.value)


def header_of(tree: LayerTree, tar_size: int, diff_id: DiffID, *, bottom: bool) -> LayerHeader:
    """The header of a tree that was assembled for the bottom of an image, or for above it.

    Where the tree is the same everywhere the header does not tell which, so that it follows from the tar alone.
    """
    flags = LayerFlags(0)
    flags |= LayerFlags.IMPLIED if tree.implied else LayerFlags(0)
    flags |= LayerFlags.WHITEOUTS if tree.has_whiteouts else LayerFlags(0)
    if bottom and not is_right_everywhere(flags, bottom=True):
        flags |= LayerFlags.BOTTOM
    return LayerHeader(tar_size=tar_size, diff_id=diff_id, entries=tree.entries, flags=flags)


def finish(fd: int, tree: LayerTree, header: LayerHeader) -> Converted:
    """Write the filesystem behind the tar and sync the file."""
    size = write_image(fd, tree.root, header)
    hashing = _FileHash(fd, size)
    hashing.start()  # it reads from the page cache while the disk writes
    os.fdatasync(fd)
    return Converted(header=header, size=size, sha256=hashing.result())


def hash_file(fd: int, size: int) -> Digest:
    """SHA-256 of the first ``size`` bytes of a file."""
    digest = hashlib.sha256()
    buffer = bytearray(4 << 20)
    view = memoryview(buffer)
    offset = 0
    while offset < size:
        count = os.preadv(fd, [view[: min(len(buffer), size - offset)]], offset)
        if count == 0:
            raise StoreError("a staged layer image is shorter than what was written", hint="check the disk")
        digest.update(view[:count])
        offset += count
    return Digest("sha256:" + digest.hexdigest())


def _assemble(inflater: _Inflater, writer: _TarWriter, *, bottom: bool, limits: Limits) -> LayerTree:
    """Assemble the tree; every piece also goes to the writer, up to the last byte of the stream."""

    def tee() -> Iterator[bytes]:
        for piece in inflater.out:
            if not writer.inbox.put(piece):
                return
            yield piece

    pieces = tee()
    tree = assemble(ChunkSource(pieces), bottom=bottom, limits=limits)
    for _ in pieces:  # bytes behind the archive are part of the diffID, too (unpack-rules §17)
        pass
    return tree


def _check(what: str, got: str, wanted: Digest | None) -> None:
    if wanted is not None and got != wanted:
        raise DigestMismatch(
            f"{what} {wanted} arrived as {got}", hint="the registry or the network altered it; try again"
        )


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


_Piece = bytes | _Failed | None
"""None ends the stream."""


class _Channel:
    """A bounded queue of pieces that either side can close."""

    def __init__(self) -> None:
        self._queue: queue.Queue[_Piece] = queue.Queue(_QUEUED_PIECES)
        self._abandoned = threading.Event()

    def put(self, piece: _Piece) -> bool:
        """Wait for room. False when the reader has stopped reading."""
        # queue.Queue cannot be closed (shutdown() is of Python 3.13), so a full one is tried again.
        while not self._abandoned.is_set():
            try:
                self._queue.put(piece, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def abandon(self) -> None:
        self._abandoned.set()

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._queue.get()) is not None:
            if isinstance(piece, _Failed):
                raise piece.error
            yield piece


class _Reader(threading.Thread):
    """Reads and hashes the compressed chunks, to the end of the blob even when the reader of ``out`` stops."""

    def __init__(self, chunks: Iterator[bytes], algorithm: str) -> None:
        super().__init__(name="read", daemon=True)
        self.out = _Channel()
        self.stop = threading.Event()
        self._chunks = chunks
        self._hash = hashlib.new(algorithm)

    @property
    def digest(self) -> str:
        return f"{self._hash.name}:{self._hash.hexdigest()}"

    def run(self) -> None:
        """A malformed layer is read to its end: its digest tells whether the blob was damaged on the way."""
        try:
            for chunk in self._chunks:
                if self.stop.is_set():
                    break
                self._hash.update(chunk)
                self.out.put(chunk)
            self.out.put(None)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that reads the channel
            self.out.put(_Failed(error))


class _Inflater(threading.Thread):
    """Decompresses chunks to pieces of the tar."""

    def __init__(self, chunks: _Channel, limits: Limits) -> None:
        super().__init__(name="inflate", daemon=True)
        self.out = _Channel()
        self.compression = Compression.NONE
        """Known once the first chunk was read."""
        self._chunks = chunks
        self._limits = limits

    def run(self) -> None:
        try:
            self._inflate()
            self.out.put(None)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that reads the channel
            self.out.put(_Failed(error))
        finally:
            self._chunks.abandon()

    def _inflate(self) -> None:
        decompressor: Decompressor | None = None
        for chunk in self._chunks:
            if decompressor is None:
                self.compression = sniff(chunk)
                decompressor = Decompressor(self.compression, self._limits)
            for piece in decompressor.feed(chunk):
                if not self.out.put(piece):
                    return
        if decompressor is not None:
            decompressor.finish()


class _TarWriter(threading.Thread):
    """Hashes the pieces of the tar and writes them from ``DATA_START`` on."""

    def __init__(self, fd: int) -> None:
        super().__init__(name="write", daemon=True)
        self.inbox = _Channel()
        self.hash = hashlib.sha256()
        self.size = 0
        self._fd = fd
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            behind = WriteBehind(self._fd)
            for piece in self.inbox:
                self.hash.update(piece)
                behind.write(DATA_START + self.size, piece)
                self.size += len(piece)
        except BaseException as error:  # noqa: BLE001 - raised in finish()
            self._failure = error
            self.inbox.abandon()

    def finish(self) -> None:
        self.inbox.put(None)
        self.join()
        if self._failure is not None:
            raise self._failure


class _FileHash(threading.Thread):
    def __init__(self, fd: int, size: int) -> None:
        super().__init__(name="file-hash", daemon=True)
        self._fd = fd
        self._size = size
        self._digest: Digest | None = None

    def run(self) -> None:
        self._digest = hash_file(self._fd, self._size)

    def result(self) -> Digest:
        self.join()
        if self._digest is None:
            raise StoreError("a staged layer image could not be read back", hint="check the disk")
        return self._digest
