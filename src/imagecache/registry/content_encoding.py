"""Content-Encodings that nobody asked for: a cache or a proxy on the way compresses what it passes on, or says it does.

We ask for ``identity``, since a digest is that of the bytes as the registry stores them. containerd undoes gzip
(``core/remotes/docker/fetcher.go``; in 1.6 Go's ``net/http`` does), so we do too. The header may also speak of the
blob's own compression, as Apache's ``x-gzip`` for layers does: what has the right digest or length is taken as it is.
Other encodings are refused. It must not trust the result: whoever reads it hashes it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from imagecache.digest import Digest
from imagecache.errors import LimitExceeded, ProtocolViolation

_IDENTITY = frozenset({"", "identity"})
_GZIP = frozenset({"gzip", "x-gzip"})
"""RFC 9110 §8.4.1.3: the same."""
_GZIP_MAGIC = b"\x1f\x8b"
_PIECE = 1 << 20
"""The largest piece of output: it bounds the memory, however much the input expands."""


def is_encoded(header: str) -> bool:
    """Whether a Content-Encoding field names one."""
    return header.strip().lower() not in _IDENTITY


def stored(body: bytes, header: str, bound: int, what: str, digest: Digest | None = None) -> bytes:
    """A whole answer as the registry stores it; ``what`` names it in messages.

    Raises ProtocolViolation, and LimitExceeded when it has more than ``bound`` bytes.
    """
    if not is_encoded(header) or (digest is not None and digest.matches(body)):
        return body
    if digest is None and not body.startswith(_GZIP_MAGIC) and header.strip().lower() in _GZIP:
        return body  # somebody on the way has undone it and left the header
    result = bytearray()
    for piece in Decoder(header, what).feed(body):
        result += piece
        if len(result) > bound:
            raise LimitExceeded(f"{what} has more than {bound} bytes, which is the limit")
    return bytes(result)


class Decoder:
    """Undoes gzip in a body that arrives in pieces. Raises ProtocolViolation for another encoding."""

    def __init__(self, header: str, what: str) -> None:
        if header.strip().lower() not in _GZIP:
            raise ProtocolViolation(f"{what} arrives with a Content-Encoding that was not requested and is not gzip")
        self._what = what
        self._member = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The output of the next input, in pieces of at most 1 MiB. Raises ProtocolViolation."""
        more = True
        while data or more:
            try:
                piece = self._member.decompress(data, _PIECE)
            except zlib.error as error:
                raise ProtocolViolation(f"{self._what} arrives with a broken gzip encoding") from error
            data, more = self._member.unconsumed_tail, len(piece) == _PIECE  # a full piece may not be all of it
            if self._member.eof:
                data, more = self._member.unused_data, False
                self._member = zlib.decompressobj(wbits=31)
            if piece:
                yield piece
