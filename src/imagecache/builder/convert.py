"""One layer from compressed bytes to a layer image, in one pass.

Four threads work at once, and their heavy parts release the interpreter lock: one reads and hashes the compressed
bytes, one decompresses, one (the caller's) parses the tar and assembles the tree, one hashes and writes the tar. With
``Parallel`` the second is rapidgzip's, which uses more cores.
Nothing is extracted, and the queues between the threads bound the memory. It works on file descriptors alone, so that a
process without privileges can run it. It must not know names, stores or registries.
"""

from __future__ import annotations

import hashlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from imagecache.builder.converted import Converted
from imagecache.builder.image_digest import Hash, continued, image_digest
from imagecache.builder.position import is_right_everywhere
from imagecache.builder.writeback import WriteBehind
from imagecache.digest import DiffID, Digest
from imagecache.erofs.layer_header import DATA_START, LayerFlags, LayerHeader
from imagecache.erofs.reader import LayerImage
from imagecache.erofs.writer import write_image
from imagecache.errors import ContentError, DigestMismatch
from imagecache.layer import parallel_gzip
from imagecache.layer.assemble import LayerTree, assemble
from imagecache.layer.compression import Compression, Decompressor, check_growth, sniff
from imagecache.layer.implied_directories import resolve_implied
from imagecache.layer.parallel_gzip import Compressed
from imagecache.layer.tar_sources import ChunkSource
from imagecache.limits import DEFAULT, Limits

Room = Callable[[int], None]
"""Asked before the file gets so many bytes. Raises when it may not."""
_HEAD = 10
"""Bytes that tell the compression."""
_CHUNK = 1 << 20
_QUEUED_PIECES = 4
"""Pieces of at most 4 MiB each between two threads: enough to even out their speeds, and little memory."""


def any_room(size: int) -> None:
    """Grants all that is asked for."""
    del size


@dataclass(frozen=True, slots=True)
class ParsedLayer:
    """A tar that is written to the file, and what was found in it."""

    tree: LayerTree
    header: LayerHeader
    tar: Hash | None
    """The hash of the tar, which that of the layer image continues; None: the tar has to be read for that."""
    threads: int = 1
    compression: str = ""
    bottom: bool = False
    """It was assembled by the rules of the bottom layer."""

    @property
    def waits(self) -> bool:
        """For the layers below: they have the attributes of directories that this one implies."""
        return bool(self.tree.implied) and not self.bottom

    def unfinished(self) -> Converted:
        return Converted(header=self.header, threads=self.threads, compression=self.compression)

    def finish(
        self, fd: int, lowers: Sequence[LayerImage] = (), *, limits: Limits = DEFAULT, room: Room = any_room
    ) -> Converted:
        """Write the filesystem behind the tar and sync the file; ``lowers`` are top to bottom. Raises as ``room``."""
        if self.waits:
            resolve_implied(self.tree, lowers, limits)
        size = write_image(fd, self.tree.root, self.header, room=room)
        end = DATA_START + self.header.tar_size
        digest = image_digest(fd, size) if self.tar is None else continued(self.tar, fd, end, size)
        os.fdatasync(fd)
        return msgspec.structs.replace(self.unfinished(), size=size, digest=digest)


def convert(  # noqa: PLR0913 - what is known of a layer beforehand
    chunks: Iterator[bytes],
    fd: int,
    *,
    bottom: bool,
    limits: Limits,
    blob: Digest | None = None,
    diff_id: DiffID | None = None,
    parallel: Parallel | None = None,
    room: Room = any_room,
) -> ParsedLayer:
    """Convert the compressed ``chunks`` of ``blob`` to the tar of a layer image, in the empty, writable file ``fd``.

    ``blob`` and ``diff_id`` are the expected digests, where they are known; ``parallel`` needs the second. ``finish``
    completes the layer image. Raises DigestMismatch when a digest is wrong, what ``room`` raises, and the ContentError
    family for the content of the layer.
    """
    reader = _Reader(chunks, blob, parallel)
    inflater = _Inflater(reader.out, limits, parallel)
    writer = _TarWriter(fd, room)
    for thread in (reader, inflater, writer):
        thread.start()
    try:
        tree = _assemble(inflater, writer, bottom=bottom, limits=limits)
    except ContentError:
        inflater.out.abandoned = True
        reader.join()
        # Read to the end first: when the blob is not the promised one, that is the error, and a new download may help.
        reader.check(blob)
        raise
    else:
        reader.join()  # rapidgzip may have the last bytes before they are hashed
    finally:
        # Every thread ends on every path: each is stopped or drained before it is joined.
        reader.stop = inflater.out.abandoned = True
        if parallel is not None:
            parallel.end()
        try:
            writer.finish()
        finally:
            inflater.join()
            reader.join()
    reader.check(blob)
    found = DiffID(Digest(f"sha256:{writer.hash.hexdigest()}"))
    _check("uncompressed layer", found, diff_id)
    header = header_of(tree, writer.size, found, bottom=bottom)
    return ParsedLayer(tree, header, writer.hash, inflater.threads, inflater.compression.value, bottom)


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


@dataclass(frozen=True, slots=True)
class Parallel:
    """Several cores for a gzip stream. What comes of it counts only under the expected diffID."""

    compressed: Compressed
    threads: int
    end: Callable[[], None]
    """Nobody waits for more of ``compressed``."""


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

    def __init__(self, chunks: Iterator[bytes], blob: Digest | None, parallel: Parallel | None) -> None:
        """Without ``blob`` nothing is hashed. With ``parallel`` it only hashes: that one reads the file itself."""
        self.out = _Channel()
        super().__init__("read", self.out)
        self.out.abandoned = parallel is not None
        self._parallel = parallel
        self._failure: BaseException | None = None
        self.stop = False
        self._chunks = chunks
        self._hash = hashlib.new(blob.algorithm) if blob is not None else None

    def check(self, blob: Digest | None) -> None:
        """Raises DigestMismatch, and why it could not read to the end. Called when the thread has ended."""
        if self._failure is not None:
            raise self._failure
        if self._hash is not None:
            _check("blob", f"{self._hash.name}:{self._hash.hexdigest()}", blob)

    def work(self) -> None:
        """A malformed layer is read to its end: its digest tells whether the blob was damaged on the way."""
        try:
            for chunk in self._chunks:
                if self.stop:
                    break
                if self._hash is not None:
                    self._hash.update(chunk)
                self.out.put(chunk)
            self.out.put(None)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that reads the channel, and by ``check``
            self._failure = error
            if self._parallel is not None:
                self._parallel.end()  # it waits for bytes that never come
            self.out.put(_Failed(error))


class _Inflater(_Thread):
    """Decompresses chunks to pieces of the tar."""

    def __init__(self, chunks: _Channel, limits: Limits, parallel: Parallel | None) -> None:
        self.out = _Channel()
        super().__init__("inflate", self.out)
        self.compression = Compression.NONE
        """Known once the first chunk was read."""
        self.threads = 1
        self._chunks = chunks
        self._limits = limits
        self._parallel = parallel

    def work(self) -> None:
        try:
            for piece in self._pieces():
                if not self.out.put(piece):
                    break
            self.out.put(None)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that reads the channel
            self.out.put(_Failed(error))
        finally:
            self._chunks.abandoned = True

    def _pieces(self) -> Iterator[bytes]:
        if self._parallel is None:
            return self._plain(self._chunks)
        compressed = self._parallel.compressed
        self.compression = sniff(compressed.read(_HEAD))
        compressed.seek(0)
        if self.compression is not Compression.GZIP:  # its media type says something else
            return self._plain(iter(lambda: compressed.read(_CHUNK), b""))
        self.threads = self._parallel.threads
        return self._counted(parallel_gzip.inflate(compressed, self._parallel.threads))

    def _plain(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        decompressor: Decompressor | None = None
        for chunk in chunks:
            if decompressor is None:
                self.compression = sniff(chunk)
                decompressor = Decompressor(self.compression, self._limits)
            yield from decompressor.feed(chunk)
        if decompressor is not None:
            decompressor.finish()

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        produced = 0
        for piece in pieces:
            produced += len(piece)
            check_growth(produced, self._limits)
            yield piece


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
