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
import signal
import threading
from collections.abc import Callable, Iterator

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

Room = Callable[[int], None]
"""Asked before the file gets so many bytes. Raises when it may not."""
_QUEUED_PIECES = 4
"""Pieces of at most 4 MiB each between two threads: enough to even out their speeds, and little memory."""


def any_room(size: int) -> None:
    """Grants all that is asked for."""
    del size


def convert(  # noqa: PLR0913 - what is known of one layer
    chunks: Iterator[bytes],
    fd: int,
    *,
    bottom: bool,
    limits: Limits,
    blob: Digest | None = None,
    diff_id: DiffID | None = None,
    room: Room = any_room,
) -> Converted:
    """Convert the compressed ``chunks`` of ``blob`` into the empty, writable file ``fd``.

    ``blob`` and ``diff_id`` are the expected digests, where they are known. Raises DigestMismatch when one is wrong,
    what ``room`` raises, and the ContentError family for the content of the layer.
    """
    reader = _Reader(chunks, blob.algorithm if blob else "sha256")
    inflater = _Inflater(reader.out, limits)
    writer = _TarWriter(fd, room)
    for thread in (reader, inflater, writer):
        thread.start()
    try:
        tree = _assemble(inflater, writer, bottom=bottom, limits=limits)
    except ContentError:
        inflater.out.abandoned = True
        reader.join()
        # Read to the end first: when the blob is not the promised one, that is the error, and a new download may help.
        _check("blob", reader.digest, blob)
        raise
    finally:
        # Every thread ends on every path: each is stopped or drained before it is joined.
        reader.stop = inflater.out.abandoned = True
        try:
            writer.finish()
        finally:
            inflater.join()
            reader.join()
    _check("blob", reader.digest, blob)
    found = DiffID(Digest(f"sha256:{writer.hash.hexdigest()}"))
    _check("uncompressed layer", found, diff_id)
    header = header_of(tree, writer.size, found, bottom=bottom)
    converted = Converted(header=header) if tree.implied and not bottom else finish(fd, tree, header, room)
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


def finish(fd: int, tree: LayerTree, header: LayerHeader, room: Room) -> Converted:
    """Write the filesystem behind the tar and sync the file."""
    size = write_image(fd, tree.root, header, room=room)
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
                raise _WriterStopped  # at once: an end of the tar here would have the rest of the blob downloaded
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


class _WriterStopped(Exception):
    """There is no room, or the disk has failed: ``_TarWriter.finish`` raises which."""


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


_Piece = bytes | _Failed | None
"""None ends the stream."""


class _Channel:
    """A bounded queue of pieces that either side can close, also when there is no memory left to say so in it."""

    def __init__(self) -> None:
        self._queue: queue.Queue[_Piece] = queue.Queue(_QUEUED_PIECES)
        self.abandoned = False
        """Nobody reads from it any longer."""
        self.broken = False
        """Nobody writes to it any longer, and could not put the error into it."""

    def put(self, piece: _Piece) -> bool:
        """Wait for room. False when the reader has stopped reading."""
        # queue.Queue cannot be closed (shutdown() is of Python 3.13), so a full one is tried again.
        while not self.abandoned:
            try:
                self._queue.put(piece, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._get()) is not None:
            if isinstance(piece, _Failed):
                raise piece.error
            yield piece

    def _get(self) -> _Piece:
        while True:
            try:
                return self._queue.get(timeout=1)
            except queue.Empty:
                if self.broken:
                    raise MemoryError from None


class _Thread(threading.Thread):
    """Its ``work`` runs without signals: those are for the main thread, which alone can act on them.

    It tells its errors itself, but for the one for which it had no memory.
    """

    def __init__(self, name: str, channel: _Channel) -> None:
        """``channel`` is what other threads wait at for this one."""
        super().__init__(name=name, daemon=True)
        self._channel = channel

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGXCPU,))
        try:
            self.work()
        except MemoryError:
            self._channel.broken = self._channel.abandoned = True

    def work(self) -> None:
        raise NotImplementedError


class _Reader(_Thread):
    """Reads and hashes the compressed chunks, to the end of the blob even when the reader of ``out`` stops."""

    def __init__(self, chunks: Iterator[bytes], algorithm: str) -> None:
        self.out = _Channel()
        super().__init__("read", self.out)
        self.stop = False
        self._chunks = chunks
        self._hash = hashlib.new(algorithm)

    @property
    def digest(self) -> str:
        return f"{self._hash.name}:{self._hash.hexdigest()}"

    def work(self) -> None:
        """A malformed layer is read to its end: its digest tells whether the blob was damaged on the way."""
        try:
            for chunk in self._chunks:
                if self.stop:
                    break
                self._hash.update(chunk)
                self.out.put(chunk)
            self.out.put(None)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that reads the channel
            self.out.put(_Failed(error))


class _Inflater(_Thread):
    """Decompresses chunks to pieces of the tar."""

    def __init__(self, chunks: _Channel, limits: Limits) -> None:
        self.out = _Channel()
        super().__init__("inflate", self.out)
        self.compression = Compression.NONE
        """Known once the first chunk was read."""
        self._chunks = chunks
        self._limits = limits

    def work(self) -> None:
        try:
            self._inflate()
            self.out.put(None)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that reads the channel
            self.out.put(_Failed(error))
        finally:
            self._chunks.abandoned = True

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


class _TarWriter(_Thread):
    """Hashes the pieces of the tar and writes them from ``DATA_START`` on."""

    def __init__(self, fd: int, room: Room) -> None:
        self.inbox = _Channel()
        super().__init__("write", self.inbox)
        self.hash = hashlib.sha256()
        self.size = 0
        self._fd = fd
        self._room = room
        self._failure: BaseException | None = None

    def work(self) -> None:
        try:
            behind = WriteBehind(self._fd)
            for piece in self.inbox:
                self._room(DATA_START + self.size + len(piece))
                self.hash.update(piece)
                behind.write(DATA_START + self.size, piece)
                self.size += len(piece)
        except BaseException as error:  # noqa: BLE001 - raised in finish()
            self._failure = error
            self.inbox.abandoned = True

    def finish(self) -> None:
        self.inbox.put(None)
        self.join()
        if self._failure is not None:
            raise self._failure


class _FileHash(_Thread):
    def __init__(self, fd: int, size: int) -> None:
        super().__init__("file-hash", _Channel())
        self._fd = fd
        self._size = size
        self._digest: Digest | None = None
        self._failure: BaseException | None = None

    def work(self) -> None:
        try:
            self._digest = hash_file(self._fd, self._size)
        except BaseException as error:  # noqa: BLE001 - raised in result()
            self._failure = error

    def result(self) -> Digest:
        self.join()
        if self._failure is not None:
            raise self._failure
        if self._digest is None:
            raise StoreError("a staged layer image could not be read back", hint="check the disk")
        return self._digest
