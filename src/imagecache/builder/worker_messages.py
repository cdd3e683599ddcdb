"""What a build and its worker processes say to each other, one datagram each (SOCK_SEQPACKET), as JSON.

File descriptors travel beside ``Convert``, ``Derive`` and ``Prove``: a worker opens nothing by name. It must not do
I/O.
"""

from __future__ import annotations

import msgspec

from imagecache.builder.converted import Converted
from imagecache.digest import DiffID, Digest
from imagecache.errors import ImageCacheError, by_name
from imagecache.oci.descriptor import decode_hook, encode_hook

MAX_MESSAGE = 64 << 10


class Convert(msgspec.Struct, tag=True, frozen=True):
    """Descriptors: the growing compressed file (read), the empty layer image (read and write)."""

    blob: Digest
    size: int
    """Compressed bytes; the file may be shorter still."""
    diff_id: DiffID
    bottom: bool


class Derive(msgspec.Struct, tag=True, frozen=True):
    """Descriptors: the file that holds the tar (read and write), then the layer images below, top to bottom."""

    tar_size: int
    diff_id: DiffID
    bottom: bool


class Prove(msgspec.Struct, tag=True, frozen=True):
    """Prove a layer image whose bytes arrive one after the other, told by ``Arrived``.

    Descriptors: the file that they are written to (read; looked at when all have arrived), the memory that they arrive
    in (read). That the tar has ``diff_id`` is for the sender to find.
    """

    diff_id: DiffID
    tar_size: int | None
    """None: not known yet; then the bytes begin with the tar, and what comes before it is in the file in the end."""


class Available(msgspec.Struct, tag=True, frozen=True):
    """So many bytes of the compressed file are there now. -1: no more will come."""

    size: int


class Arrived(msgspec.Struct, tag=True, frozen=True):
    """The next ``size`` bytes are in the memory, at ``offset``. 0: no more will come, and the file has all of them."""

    offset: int
    size: int


class Progress(msgspec.Struct, tag=True, frozen=True):
    consumed: int
    """Bytes of the compressed file, or of what has arrived."""


class Proven(msgspec.Struct, tag=True, frozen=True):
    """The end of a ``Prove`` that succeeds. ``Convert`` and ``Derive`` end with ``Converted``."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    error: str
    """Name of a class of ``imagecache.errors``."""
    message: str
    hint: str

    def exception(self) -> ImageCacheError:
        """The error that the worker met, as an instance of its own class."""
        return by_name(self.error)(self.message, hint=self.hint)


ToWorker = Convert | Derive | Prove | Available | Arrived
FromWorker = Progress | Converted | Proven | Failed

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
