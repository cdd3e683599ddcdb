"""One blob as a stream that survives broken connections.

It resumes with a Range request where it stopped; from a server that ignores Range the known bytes are read again and
dropped. It yields exactly the bytes from the wanted offset to the descriptor's size, or raises. It must not trust them:
the caller hashes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Sequence

import aiohttp

from imagecache.backoff import Attempts, Retryable
from imagecache.errors import ProtocolViolation, RegistryError, RegistryUnavailable
from imagecache.limits import MIB
from imagecache.oci.descriptor import Descriptor
from imagecache.registry.config import RegistryConfig
from imagecache.registry.content_encoding import Decoder, is_encoded
from imagecache.registry.endpoint import host_of
from imagecache.registry.pace import TooSlow, pieces
from imagecache.registry.repository import Repository

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_PROGRESS = 1 * MIB
"""Bytes that count as progress and reset the number of attempts. A server that sends a byte and breaks gets no more."""


class BlobStream:
    """The bytes of one blob from the first server that has it."""

    def __init__(self, config: RegistryConfig, servers: Sequence[Repository], path: str, blob: Descriptor) -> None:
        self._config = config
        self._servers = list(servers)
        self._path = path
        self._blob = blob
        self._what = f"blob {blob.digest}"
        self._whole = False
        """Ranges of this blob are encoded, each by itself, so it is read from its start."""

    async def read(self, offset: int) -> AsyncGenerator[bytes, None]:
        """Bytes from ``offset`` to the end. Raises RegistryError."""
        position = mark = offset
        attempts = self._attempts()
        while position < self._blob.size:
            try:
                async with contextlib.aclosing(self._part(position)) as part:
                    async for chunk in part:
                        position += len(chunk)
                        yield chunk
            except Retryable as again:
                if position - mark >= _PROGRESS and not isinstance(again, TooSlow):
                    mark = position
                    attempts.progress()
                attempts = await self._recover(attempts, again)
            except RegistryError:
                # Not retryable: a mirror that lacks the blob, or breaks the protocol. The next one goes on from here.
                if not self._next_server():
                    raise
                attempts = self._attempts()

    async def _recover(self, attempts: Attempts, again: Retryable) -> Attempts:
        """Wait, or go on with the next server at once."""
        try:
            await attempts.wait(again)
        except RegistryError:
            if not self._next_server():
                raise
            return self._attempts()
        return attempts

    def _attempts(self) -> Attempts:
        """Only the last server is asked more than once."""
        return self._config.new_attempts(None if len(self._servers) == 1 else 1)

    def _next_server(self) -> bool:
        if len(self._servers) == 1:
            return False
        del self._servers[0]
        return True

    async def _part(self, position: int) -> AsyncGenerator[bytes, None]:
        """One request: bytes from ``position`` on, as many as arrive, never more than the blob has."""
        headers = {"Range": f"bytes={position}-"} if position and not self._whole else {}
        server = self._servers[0]
        async with server.get(self._path, self._what, headers) as response:
            host = host_of(response.url)
            decoder = self._decoder(response, position, host)
            discard = self._skipped(response, position, host)
            if decoder is None:
                self._check_length(response, position - discard, host)
            left = self._blob.size - position
            async with contextlib.aclosing(self._pieces(response, decoder)) as chunks:
                async for received in chunks:
                    chunk = received
                    if discard:
                        dropped = min(discard, len(chunk))
                        discard -= dropped
                        chunk = chunk[dropped:]
                    left -= len(chunk)
                    if left < 0:
                        raise ProtocolViolation(f"{host} sends more than the {self._blob.size} bytes of {self._what}")
                    if chunk:
                        yield chunk
        if left:
            raise Retryable(
                RegistryUnavailable(
                    f"{self._what} ends after {self._blob.size - left} of {self._blob.size} bytes",
                    hint="the registry or a proxy cut the connection",
                )
            )

    def _decoder(self, response: aiohttp.ClientResponse, position: int, host: str) -> Decoder | None:
        """For an answer that is encoded for the way; None when it is as stored, whatever its header says."""
        header = response.headers.get("Content-Encoding", "")
        start = position if response.status == 206 else 0
        if not is_encoded(header) or response.content_length == self._blob.size - start:
            return None
        decoder = Decoder(header, f"{self._what} from {host}")
        if response.status == 206:  # a range of the encoded bytes: of no use
            self._whole = True
            raise Retryable(RegistryUnavailable(f"{host} sends a range of {self._what} with a Content-Encoding"))
        return decoder

    def _skipped(self, response: aiohttp.ClientResponse, position: int, host: str) -> int:
        """The number of bytes at the start of the answer that are already known."""
        if response.status == 200:  # the server ignores Range, as RFC 9110 §14.2 allows
            return position
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if position == 0 or match is None or int(match[1]) != position:
            raise ProtocolViolation(f"{host} answers with another range of {self._what} than the requested one")
        return 0

    def _check_length(self, response: aiohttp.ClientResponse, start: int, host: str) -> None:
        """Raise before the download when the answer cannot be the blob. A 206 may be shorter than requested."""
        if response.content_length is None:
            return
        end = start + response.content_length
        if end > self._blob.size or (response.status == 200 and end < self._blob.size):
            raise ProtocolViolation(
                f"{host} has {end} bytes for {self._what}; its manifest says {self._blob.size}",
                hint="the registry holds a damaged image; push it again",
            )

    async def _pieces(self, response: aiohttp.ClientResponse, decoder: Decoder | None) -> AsyncGenerator[bytes, None]:
        """What arrives, decoded where that is needed."""
        arriving = pieces(response, host_of(response.url), self._what, self._config.limits)
        async with contextlib.aclosing(arriving) as chunks:
            async for received in chunks:
                if decoder is None:
                    yield received
                else:
                    for piece in decoder.feed(received):
                        yield piece
