"""Compressed layers that are being downloaded: appended to, kept when a build stops, resumed by the next one.

The bytes are not fsynced and not trusted: a build that resumes hashes the file from its start, so a tail that a power
failure damaged costs one download. One process at a time works on a file. It must not fetch anything.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from imagecache.digest import Digest
from imagecache.oserrors import converting
from imagecache.store.durable_files import write_all
from imagecache.store.locks import open_locked
from imagecache.store.paths import StorePaths


class Download:
    """A partial blob, locked; ``fd`` is open for reading and writing. The file stays until ``discard``."""

    def __init__(self, paths: StorePaths, digest: Digest, size: int, *, wait: bool) -> None:
        self.digest = digest
        self.size = size
        """Bytes of the complete blob."""
        self.path = paths.download(digest)
        with converting(self.path):
            self.fd = open_locked(self.path, wait=wait)
        self.offset = os.fstat(self.fd).st_size
        """Bytes that the file has. More than ``size`` cannot be right: then it starts again."""
        if self.offset > size:
            self._truncate()

    @property
    def complete(self) -> bool:
        """The file has all bytes. Whether they are the right ones is for the caller to verify."""
        return self.offset == self.size

    def write(self, chunk: bytes) -> None:
        """Append. Raises NoSpace, StoreDenied, StoreError; ValueError when the blob would become too long."""
        if self.offset + len(chunk) > self.size:
            raise ValueError(f"{self.digest} has only {self.size} bytes")
        with converting(self.path):
            write_all(self.fd, chunk, self.offset)
        self.offset += len(chunk)

    def discard(self) -> None:
        """Remove the file: its bytes were used, or are wrong."""
        with converting(self.path):
            self.path.unlink(missing_ok=True)
        self._truncate()  # frees the space now: a worker process may have the descriptor open for some time

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
        """Resume or start a download. A context manager. Raises StoreBusy when not ``wait``, StoreError."""
        return Download(self._paths, digest, size, wait=wait)
