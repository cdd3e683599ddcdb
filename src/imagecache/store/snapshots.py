"""Snapshots by cache id: written last, when everything they name is in the store.

``index.json`` is the only mutable file of it, replaced whole under a lock; each entry leads to an artifact manifest and
from there to the document. Deleting takes the entry out and nothing else; the rest is for a collection. It must not
look into images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from imagecache.digest import Digest
from imagecache.errors import AlreadyExists, BlobNotFound, InvalidDigest, InvalidInput, NotFound, StoreCorrupt
from imagecache.oci.descriptor import Descriptor, decode_hook, encode_hook
from imagecache.oserrors import converting
from imagecache.store import layout
from imagecache.store.blobs import Blobs
from imagecache.store.files import fsync_directory, write_atomic
from imagecache.store.layout import ArtifactManifest, LayoutIndex
from imagecache.store.locks import locked
from imagecache.store.model import SNAPSHOT_MEDIA_TYPE, SnapshotDocument
from imagecache.store.paths import StorePaths

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot with the blobs that exist for it: its manifest, the empty config, its document, the images' own."""

    document: SnapshotDocument
    blobs: frozenset[Digest]


class Snapshots:
    def __init__(self, paths: StorePaths, blobs: Blobs) -> None:
        self._paths = paths
        self._blobs = blobs

    def put(self, document: SnapshotDocument) -> None:
        """Commit a snapshot, durably. The same document again is no change.

        Raises BlobNotFound when a layer image or document of it is not in the store, AlreadyExists when another
        snapshot has its id, StoreCorrupt, NoSpace, StoreDenied, StoreError.
        """
        body = _encode(document)
        descriptor = Descriptor(media_type=SNAPSHOT_MEDIA_TYPE, digest=Digest.sha256(body), size=len(body))
        manifest = _encode(layout.artifact_manifest(document, descriptor))
        entry = layout.index_entry(document.id, manifest)
        with self._changing() as index:
            present = index.find(document.id)
            if present is not None and present.digest != entry.digest:
                raise AlreadyExists(f"the store has another snapshot {document.id}", hint="delete that one first")
            self._require(document)
            for data in (layout.EMPTY, body, manifest):
                self._blobs.put(data)
            if present is None:
                self._write(index.having(entry))

    def get(self, snapshot_id: str) -> SnapshotDocument:
        """Raises NotFound, BlobNotFound, StoreCorrupt, StoreError."""
        return self._settled(lambda index: self._load(_entry(index, snapshot_id)).document)

    def all(self) -> list[SnapshotDocument]:
        """Every snapshot, in the order in which they were put. Raises BlobNotFound, StoreCorrupt, StoreError."""
        return [stored.document for stored in self.stored()]

    def stored(self) -> list[Stored]:
        """Every snapshot with its blobs. Raises as ``all``."""
        return self._settled(lambda index: [self._load(entry) for entry in index.manifests])

    def ids(self) -> list[str]:
        """Cache ids from ``index.json`` alone, whatever state the rest is in."""
        return [entry.annotations.get(layout.REF_NAME, "") for entry in self.index().manifests]

    def delete(self, snapshot_id: str) -> None:
        """Take a snapshot out; works for a damaged one too. Raises NotFound, StoreError."""
        with self._changing() as index:
            _entry(index, snapshot_id)
            self._write(index.without(snapshot_id))

    def create_index(self) -> None:
        """Begin with no snapshots, unless there are some. Only while a new store is made, under the index lock."""
        if not self._paths.index.exists():
            self._write(LayoutIndex())

    def index(self) -> LayoutIndex:
        """Raises StoreCorrupt (also when it is gone: then nobody may think that there are no snapshots), StoreError."""
        with converting(self._paths.index):
            try:
                data = self._paths.index.read_bytes()
            except FileNotFoundError as error:
                raise StoreCorrupt(f"{self._paths.index} is gone", hint="restore it, or use a new store") from error
        return _decode(data, LayoutIndex, self._paths.index)

    def load(self, entry: Descriptor) -> SnapshotDocument:
        """The document behind one entry of ``index.json``. Raises BlobNotFound, StoreCorrupt, StoreError."""
        return self._load(entry).document

    def _load(self, entry: Descriptor) -> Stored:
        manifest = _decode(self._blobs.read(entry.digest), ArtifactManifest, self._paths.blob(entry.digest))
        if manifest.artifact_type != SNAPSHOT_MEDIA_TYPE or not manifest.layers:
            raise StoreCorrupt(f"{self._paths.blob(entry.digest)} is no snapshot's manifest", hint=_REBUILD)
        body = manifest.layers[0].digest
        document = _decode(self._blobs.read(body), SnapshotDocument, self._paths.blob(body))
        own = {entry.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}
        return Stored(document, document.document_digests() | own)

    def _settled(self, read: Callable[[LayoutIndex], _T]) -> _T:
        """Read through ``index.json``; what vanished because the index changed meanwhile is looked up again."""
        index = self.index()
        while True:
            try:
                return read(index)
            except BlobNotFound:
                now = self.index()
                if now == index:
                    raise
                index = now

    def _require(self, document: SnapshotDocument) -> None:
        """Everything that the snapshot names is there, and durable even if another process has just made it."""
        layers = {self._paths.layer(name) for name in document.layer_names()}
        files = layers | {self._paths.blob(digest) for digest in document.document_digests()}
        for path in sorted(files):
            if not path.is_file():
                raise BlobNotFound(f"the store lacks {path}, which snapshot {document.id} needs", hint=_REBUILD)
        directories = {path.parent for path in files}
        for directory in sorted(directories | {path.parent for path in directories}):
            with converting(directory):
                fsync_directory(directory)

    @contextmanager
    def _changing(self) -> Iterator[LayoutIndex]:
        """The index, to be replaced by ``_write``; no collection runs and nobody else writes meanwhile."""
        with locked(self._paths.collect_lock, shared=True), locked(self._paths.index_lock):
            yield self.index()

    def _write(self, index: LayoutIndex) -> None:
        """Every version has a later mtime than the one before, so that a reader sees the change by one stat."""
        try:
            before = self._paths.index.stat().st_mtime_ns
        except FileNotFoundError:
            before = 0
        write_atomic(self._paths.index, _encode(index), mtime_ns=max(time.time_ns(), before + 1))


_REBUILD = "delete the image cache and create it again"


def _entry(index: LayoutIndex, snapshot_id: str) -> Descriptor:
    entry = index.find(snapshot_id)
    if entry is None:
        raise NotFound(f"no snapshot {snapshot_id} in the store")
    return entry


def _encode(document: msgspec.Struct) -> bytes:
    return msgspec.json.encode(document, enc_hook=encode_hook)


def _decode(data: bytes, kind: type[_T], path: Path) -> _T:
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=decode_hook)
    except (msgspec.DecodeError, InvalidDigest, InvalidInput) as error:
        raise StoreCorrupt(f"{path} is malformed: {error}", hint=_REBUILD) from error
