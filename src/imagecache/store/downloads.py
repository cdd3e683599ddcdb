"""Compressed layers on their way in: appended to, kept when a build stops, resumed by the next one.

The bytes are not synced and not believed: whoever resumes hashes the file from its start, so a tail that a power
failure spoiled costs one download. One process at a time works on a file. It must not fetch anything.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from imagecache.digest import Digest
from imagecache.oserrors import converting
from imagecache.store.files import write_all
from imagecache.store.locks import open_locked
from imagecache.store.paths import StorePaths


class Download:
    """A partial blob, locked; ``fd`` is open for reading and writing. The file stays unless ``discard`` is called."""

    def __init__(self, paths: StorePaths, digest: Digest, size: int, *, wait: bool) -> None:
        self.digest = digest
        self.size = size
        """Bytes that it has when complete."""
        self.path = paths.download(digest)
        with converting(self.path):
            self.fd = open_locked(self.path, wait=wait)
        self.offset = os.fstat(self.fd).st_size
        """Bytes that are there. More than ``size`` cannot be its beginning: then it starts again."""
        if self.offset > size:
            self._truncate()

    @property
    def complete(self) -> bool:
        """All bytes are there; whether they are the right ones is for the reader to say."""
        return self.offset == self.size

    def write(self, chunk: bytes) -> None:
        """Append. Raises NoSpace, StoreDenied, StoreError; ValueError when the blob would become too long."""
        if self.offset + len(chunk) > self.size:
            raise ValueError(f"{self.digest} has {self.size} bytes, not more")
        with converting(self.path):
            write_all(self.fd, chunk, self.offset)
        self.offset += len(chunk)

    def discard(self) -> None:
        """Remove the file: its bytes are used up, or wrong."""
        with converting(self.path):
            self.path.unlink(missing_ok=True)
        self._truncate()

    def _truncate(self) -> None:
        with converting(self.path):
            os.ftruncate(self.fd, 0)
        self.offset = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)


class Downloads:
    def __init__(self, paths: StorePaths) -> None:
        self._paths = paths

    def open(self, digest: Digest, size: int, *, wait: bool = True) -> Download:
        """Go on with the blob, or begin it. A context manager. Raises StoreBusy when not ``wait``, StoreError."""
        return Download(self._paths, digest, size, wait=wait)
