"""Bundle documents in memory, read once for each version of ``index.json``.

One stat tells whether the index has changed (``Bundles`` gives every version a later mtime). It must not hide what is
damaged: the caller decides what a node or a controller does then.
"""

from __future__ import annotations

import threading

from imagecache.digest import Digest
from imagecache.errors import BlobNotFound
from imagecache.file_version import FileVersion, file_version
from imagecache.oci.descriptor import Descriptor
from imagecache.store.bundle_document import Bundle
from imagecache.store.bundles import Bundles, entry_of
from imagecache.store.oci_layout import LayoutIndex


class BundleDocuments:
    """Thread-safe. Calls may block on the disk; with nothing changed, ``index`` and ``get`` take one stat.

    Args:
        bundles: where they are read.
        keep: do not read a document again with the next version of the index. A digest names it, so it cannot be
            another one, and containers that start do not wait for it; but damage since then goes unnoticed.
    """

    def __init__(self, bundles: Bundles, *, keep: bool = False) -> None:
        self._path = str(bundles.index_path)  # a Path would be turned into text at every stat
        self._bundles = bundles
        self._keep = keep
        self._lock = threading.Lock()
        self._version: FileVersion | None = None
        self._index = LayoutIndex()
        self._documents: dict[Digest, Bundle] = {}

    def index(self) -> LayoutIndex:
        """``index.json`` as it is now, the same object until it changes. Raises StoreCorrupt, StoreError."""
        with self._lock:
            version = file_version(self._path)
            if version is None or version != self._version:  # missing: the error of reading it is the right one
                self._index = self._bundles.index()
                # taken before the read, so an index that changed in between is read again next time
                self._version = version
                current = {entry.digest for entry in self._index.manifests} if self._keep else set()
                self._documents = {name: each for name, each in self._documents.items() if name in current}
            return self._index

    def load(self, entry: Descriptor) -> Bundle:
        """The document of an entry of ``index``. Raises BlobNotFound, StoreCorrupt, StoreError: then not kept."""
        found = self._documents.get(entry.digest)
        if found is None:
            found = self._bundles.load(entry)  # without the lock: a lookup for a container must not wait for a disk
            with self._lock:
                self._documents[entry.digest] = found
        return found

    def ids(self) -> tuple[str, ...]:
        """Cache ids, whatever state the documents are in. Raises StoreCorrupt, StoreError."""
        return self.index().ids

    def get(self, bundle_id: str) -> Bundle:
        """Raises NotFound, BlobNotFound, StoreCorrupt, StoreError."""
        index = self.index()
        while True:
            try:
                return self.load(entry_of(index, bundle_id))
            except BlobNotFound:  # deleted and collected since the index was read, or damaged
                now = self.index()
                if now == index:
                    raise
                index = now
