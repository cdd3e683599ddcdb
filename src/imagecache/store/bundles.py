"""Bundles by cache id. A bundle is written last, when everything that it names is in the store.

``index.json`` is the only mutable file, replaced whole under a lock; each entry leads to an artifact manifest, and that
to the document. A deletion removes the entry and nothing else; the rest is left to a collection. It must not look into
images.
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
from imagecache.errors import (
    AlreadyExists,
    BlobNotFound,
    InvalidDigest,
    InvalidInput,
    MalformedDocument,
    NotFound,
    StoreCorrupt,
)
from imagecache.oci.descriptor import Descriptor, decode_hook, encode_hook
from imagecache.oserrors import converting
from imagecache.store import bundle_document, oci_layout
from imagecache.store.blobs import Blobs
from imagecache.store.bundle_document import BUNDLE_MEDIA_TYPE, Bundle
from imagecache.store.durable_files import fsync_directory, write_atomic
from imagecache.store.locks import locked
from imagecache.store.oci_layout import ArtifactManifest, LayoutIndex
from imagecache.store.paths import StorePaths

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Stored:
    """A bundle with its blobs: its manifest, the empty config, its document, and the documents of its images."""

    document: Bundle
    blobs: frozenset[Digest]


class Bundles:
    def __init__(self, paths: StorePaths, blobs: Blobs) -> None:
        self._paths = paths
        self._blobs = blobs

    @property
    def index_path(self) -> Path:
        """``index.json``: another file, with a later mtime, whenever a bundle was put or deleted."""
        return self._paths.index

    def put(self, document: Bundle, whole: Digest | None = None) -> None:
        """Commit a bundle, durably. Idempotent for the same document.

        ``whole`` is the digest of the document that this one is a part of (``Bundle.on``); None: it is whole itself.

        Raises BlobNotFound when a layer image or document of it is not in the store, AlreadyExists when another bundle
        has its id, StoreCorrupt, NoSpace, StoreDenied, StoreError.
        """
        body = bundle_document.encode(document)
        descriptor = Descriptor(media_type=BUNDLE_MEDIA_TYPE, digest=Digest.sha256(body), size=len(body))
        manifest = _encode(oci_layout.artifact_manifest(document, descriptor))
        entry = oci_layout.index_entry(document.id, manifest, whole or descriptor.digest)
        with self._changing() as index:
            present = index.find(document.id)
            if present is not None and present.digest != entry.digest:
                raise AlreadyExists(f"the store has a different bundle {document.id}", hint="delete that one first")
            self._require(document)
            # Each before what names it, and the index last: a crash in between leaves garbage, never a broken bundle.
            for data in (oci_layout.EMPTY, body, manifest):
                self._blobs.put(data)
            if present != entry:
                self._write(index.without(document.id).with_entry(entry))

    def get(self, bundle_id: str) -> Bundle:
        """Raises NotFound, BlobNotFound, StoreCorrupt, StoreError."""
        return self._settled(lambda index: self._load(entry_of(index, bundle_id)).document)

    def all(self) -> list[Bundle]:
        """Every bundle, in the order in which they were put. Raises BlobNotFound, StoreCorrupt, StoreError."""
        return [stored.document for stored in self.stored()]

    def stored(self) -> list[Stored]:
        """Every bundle with its blobs. Raises as ``all``."""
        return self._settled(lambda index: [self._load(entry) for entry in index.manifests])

    def ids(self) -> list[str]:
        """Cache ids, from ``index.json`` alone: it works when other files are damaged."""
        return list(self.index().ids)

    def delete(self, bundle_id: str) -> None:
        """Remove a bundle from the index; works for a damaged one too. Raises NotFound, StoreError."""
        with self._changing() as index:
            entry_of(index, bundle_id)
            self._write(index.without(bundle_id))

    def create_index(self) -> None:
        """Write an empty index, unless one exists. Only while a store is made, with the index lock held."""
        if not self._paths.index.exists():
            self._write(LayoutIndex())

    def index(self) -> LayoutIndex:
        """Raises StoreCorrupt, StoreError."""
        with converting(self._paths.index):
            try:
                data = self._paths.index.read_bytes()
            except FileNotFoundError as error:
                # Not an empty index: a collection would then remove everything.
                raise StoreCorrupt(f"{self._paths.index} is missing", hint="restore it, or use a new store") from error
        return _decode(data, LayoutIndex, self._paths.index)

    def load(self, entry: Descriptor) -> Bundle:
        """The document behind one entry of ``index.json``. Raises BlobNotFound, StoreCorrupt, StoreError."""
        return self._load(entry).document

    def _load(self, entry: Descriptor) -> Stored:
        manifest = _decode(self._blobs.read(entry.digest), ArtifactManifest, self._paths.blob(entry.digest))
        if manifest.artifact_type != BUNDLE_MEDIA_TYPE or not manifest.layers:
            raise StoreCorrupt(f"{self._paths.blob(entry.digest)} is not the manifest of a bundle", hint=_REBUILD)
        body = manifest.layers[0].digest
        try:
            document = bundle_document.decode(self._blobs.read(body))
        except MalformedDocument as error:
            raise StoreCorrupt(f"{self._paths.blob(body)} is malformed: {error.message}", hint=_REBUILD) from error
        own = {entry.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}
        return Stored(document, document.document_digests() | own)

    def _settled(self, read: Callable[[LayoutIndex], _T]) -> _T:
        """Read by ``index.json``. When a blob is missing because the index has changed meanwhile, read again."""
        index = self.index()
        while True:
            try:
                return read(index)
            except BlobNotFound:
                now = self.index()
                if now == index:
                    raise
                index = now

    def _require(self, document: Bundle) -> None:
        """Everything that the bundle names exists and is durable, even if another process made it just now."""
        layers = {self._paths.layer(name) for name in document.layer_names()}
        files = layers | {self._paths.blob(digest) for digest in document.document_digests()}
        for path in sorted(files):
            if not path.is_file():
                raise BlobNotFound(f"{path}, which bundle {document.id} needs, is missing", hint=_REBUILD)
        # The files are fsynced before they get their names; whoever named them may not have fsynced the directory yet.
        directories = {path.parent for path in files}
        for directory in sorted(directories | {path.parent for path in directories}):
            with converting(directory):
                fsync_directory(directory)

    @contextmanager
    def _changing(self) -> Iterator[LayoutIndex]:
        """The index, to be replaced by ``_write``; no collection runs and no other process writes meanwhile."""
        # In this order everywhere: docs/internals/store.md, "Locks".
        with locked(self._paths.collect_lock, shared=True), locked(self._paths.index_lock):
            yield self.index()

    def _write(self, index: LayoutIndex) -> None:
        """Each version has a later mtime than the one before, so that a reader sees a change with one stat(2)."""
        try:
            # max(): a clock that was set back, or a coarse one, must not give two versions the same mtime.
            before = self._paths.index.stat().st_mtime_ns
        except FileNotFoundError:
            before = 0
        write_atomic(self._paths.index, _encode(index), mtime_ns=max(time.time_ns(), before + 1))


_REBUILD = "delete the image cache and create it again"


def entry_of(index: LayoutIndex, bundle_id: str) -> Descriptor:
    """Raises NotFound."""
    entry = index.find(bundle_id)
    if entry is None:
        raise NotFound(f"bundle {bundle_id} does not exist in the store")
    return entry


def _encode(document: msgspec.Struct) -> bytes:
    return msgspec.json.encode(document, enc_hook=encode_hook)


def _decode(data: bytes, kind: type[_T], path: Path) -> _T:
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=decode_hook)
    except (msgspec.DecodeError, InvalidDigest, InvalidInput) as error:
        raise StoreCorrupt(f"{path} is malformed: {error}", hint=_REBUILD) from error
