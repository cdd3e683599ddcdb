"""Documents by digest: manifests, configs, indexes, bundle documents. Small, whole in memory, verified when read.

Success of ``put`` means that the content is stored and durable, not that this call stored it. It must not know what is
in a document.
"""

from __future__ import annotations

from imagecache.digest import Digest
from imagecache.errors import BlobNotFound, DigestMismatch, StoreCorrupt
from imagecache.oserrors import converting
from imagecache.store.durable_files import StagedFile, fsync_directory, write_all
from imagecache.store.paths import StorePaths
from imagecache.store.quarantine import set_aside


class Blobs:
    """``quarantine`` False: corrupt blobs are reported, and stay in place."""

    def __init__(self, paths: StorePaths, *, quarantine: bool = True) -> None:
        self._paths = paths
        self._quarantine = quarantine

    def put(self, data: bytes) -> Digest:
        """Store ``data`` under its SHA-256. Raises StoreError, NoSpace, StoreDenied."""
        digest = Digest.sha256(data)
        self._store(data, digest)
        return digest

    def put_verified(self, data: bytes, digest: Digest) -> None:
        """Store ``data`` under ``digest``, of any algorithm. Raises DigestMismatch, and as ``put``."""
        if not digest.matches(data):
            raise DigestMismatch(f"{len(data)} bytes do not have the expected digest {digest}")
        self._store(data, digest)

    def has(self, digest: Digest) -> bool:
        return self._paths.blob(digest).is_file()

    def read(self, digest: Digest) -> bytes:
        """The blob, verified. Raises BlobNotFound, StoreCorrupt, StoreError."""
        path = self._paths.blob(digest)
        data = self._bytes(digest)
        if data is None:
            raise BlobNotFound(f"{path} is missing from the store", hint="create the image cache again")
        if not digest.matches(data):
            moved = f"; it is now in quarantine as {set_aside(self._paths, path)}" if self._quarantine else ""
            raise StoreCorrupt(
                f"{path} does not have the digest in its name{moved}",
                hint="check the disk, then create the image cache again",
            )
        return data

    def _bytes(self, digest: Digest) -> bytes | None:
        path = self._paths.blob(digest)
        with converting(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def _store(self, data: bytes, digest: Digest) -> None:
        path = self._paths.blob(digest)
        present = self._bytes(digest)  # compared in full: a corrupt blob must not survive a ``put`` of the right one
        if present == data:
            with converting(path):
                fsync_directory(path.parent)  # its writer may have been killed just before that
            return
        if present is not None:
            set_aside(self._paths, path)  # corrupt: ``publish`` would keep it
        with StagedFile(self._paths.staging) as staged:
            with converting(staged.path):
                write_all(staged.fd, data, 0)
            staged.publish(path)
