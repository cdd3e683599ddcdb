"""Messages between a build and its worker processes: JSON, one datagram each (SOCK_SEQPACKET).

``Convert``, ``Derive``, ``Prove``, ``ProveAbove`` and ``Unpack`` carry file descriptors (SCM_RIGHTS): a worker opens
nothing by name. Over a second socket a worker asks for room before a file grows: it sends the size that the file shall
have, and gets the size that it may have, as ``ROOM``. It must not do I/O.
"""

from __future__ import annotations

import struct

import msgspec

from imagecache.builder.converted import Converted
from imagecache.builder.position import Position
from imagecache.digest import DiffID, Digest
from imagecache.errors import ImageCacheError, by_name
from imagecache.oci.descriptor import decode_hook, encode_hook
from imagecache.written import printable

ROOM = struct.Struct("<Q")
MAX_MESSAGE = 64 << 10
"""More than the largest message, which is a ``Failed``."""


NO_SANDBOX = 77
"""Status with which a worker ends that could not give up its rights (EX_NOPERM of sysexits.h)."""
PARALLEL = "parallel"
"""Argument of a worker that may inflate on several cores: it ends after its job, and has a bound on its memory."""


class Convert(msgspec.Struct, tag=True, frozen=True):
    """Convert a layer. Descriptors: the growing compressed file (read), the empty layer image (read and write)."""

    blob: Digest | None
    """None: not known, as of a file that a person gave."""
    size: int
    """Compressed bytes of the whole blob; the file may still be shorter."""
    diff_id: DiffID
    bottom: bool
    largest: int = 0
    """Bytes that the file may have at most (RLIMIT_FSIZE). 0: no bound."""
    threads: int = 0
    """Cores for a gzip stream: more than one needs a worker that was started for that. 0: the plain decoder."""


class Derive(msgspec.Struct, tag=True, frozen=True):
    """Make the filesystem behind a tar.

    Descriptors: the file that holds the tar (read and write), then the layer images below, top to bottom.
    """

    tar_size: int
    diff_id: DiffID
    bottom: bool
    largest: int = 0
    """As of ``Convert``."""


class Prove(msgspec.Struct, tag=True, frozen=True):
    """Prove a layer image while its bytes arrive in order, each piece announced by ``Arrived``.

    Descriptors: the file that they are written to (read, once all have arrived), the memory that they arrive in (read),
    and, where compressed ones may come, the memory that these are unpacked into (read and write). The sender checks
    that the tar has ``diff_id``.
    """

    diff_id: DiffID
    position: Position
    """One that needs no lower layers."""
    tar_size: int | None
    """None: not known yet. Then the arriving bytes begin with the tar, and the file gets its head at the end."""


class ProveAbove(msgspec.Struct, tag=True, frozen=True):
    """Prove a whole layer image that is right on top of certain layers alone.

    Descriptors: the file, then the layer images below, top to bottom (all for reading). The sender has checked that the
    tar has ``diff_id``, and has proven the layers below.
    """

    diff_id: DiffID
    tar_size: int


class Unpack(msgspec.Struct, tag=True, frozen=True):
    """Unpack pieces of a layer image that is proven later, each announced by ``ArrivedPacked``. Ends with ``Proven``.

    Descriptors: the memory that they arrive in (read), the one that they are unpacked into (read and write).
    """


class More(msgspec.Struct, tag=True, frozen=True):
    """The first descriptors of the job that follows: one message carries a bounded number."""


class Available(msgspec.Struct, tag=True, frozen=True):
    """The compressed file has ``size`` bytes now. -1: it stays incomplete."""

    size: int


class Arrived(msgspec.Struct, tag=True, frozen=True):
    """The next ``size`` bytes are in the memory, at ``offset``. 0: all have arrived, and the file is complete."""

    offset: int
    size: int


class ArrivedPacked(msgspec.Struct, tag=True, frozen=True):
    """As ``Arrived``, of a piece of ``length`` bytes whose compressed form has ``size``.

    The worker unpacks it to the start of the other memory, says ``Unpacked``, and leaves it there.
    """

    offset: int
    size: int
    length: int


class Unpacked(msgspec.Struct, tag=True, frozen=True):
    """The piece that arrived last is unpacked."""


class Progress(msgspec.Struct, tag=True, frozen=True):
    consumed: int
    """Bytes of the compressed file, or of what has arrived, that the worker no longer needs."""


class Proven(msgspec.Struct, tag=True, frozen=True):
    """The end of a ``Prove``, ``ProveAbove`` or ``Unpack`` that succeeds; others end with ``Converted``."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    error: str
    """Name of a class of ``imagecache.errors``."""
    message: str
    hint: str

    @classmethod
    def of(cls, error: ImageCacheError) -> Failed:
        return cls(error.reason, printable(error.message), printable(error.hint))

    def exception(self) -> ImageCacheError:
        """The error that the worker met, as an instance of its own class. Its texts may be those of a layer."""
        return by_name(self.error)(printable(self.message), hint=printable(self.hint))


ToWorker = Convert | Derive | Prove | ProveAbove | Unpack | More | Available | Arrived | ArrivedPacked
FromWorker = Progress | Unpacked | Converted | Proven | Failed

_encoder = msgspec.json.Encoder(enc_hook=encode_hook)
_to_worker = msgspec.json.Decoder(ToWorker, dec_hook=decode_hook)
_from_worker = msgspec.json.Decoder(FromWorker, dec_hook=decode_hook)


def encode(message: ToWorker | FromWorker) -> bytes:
    return _encoder.encode(message)


def decode_to_worker(data: bytes) -> ToWorker:
    message: ToWorker = _to_worker.decode(data)
    return message


def decode_from_worker(data: bytes) -> FromWorker:
    message: FromWorker = _from_worker.decode(data)
    return message
