"""What an agent may read: all of public images, and of private ones what an ImageCache for its own Node has.

A layer that a public image has, too, is public. Of a build nothing is known yet, so its layers are for its own nodes.
Blocking, for threads. It must not know how nodes and caches are found.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

from imagecache.digest import Digest
from imagecache.errors import BlobNotFound
from imagecache.served.authenticator import Caller, Refused
from imagecache.served.protocol import NOT_SELECTED
from imagecache.served.store_reader import StoreReader
from imagecache.store.bundle_document import Bundle
from imagecache.store.layer_name import LayerName

_Thing: TypeAlias = LayerName | Digest


class NodeCaches(Protocol):
    """Which ImageCaches are for which Nodes. Called from threads."""

    def has(self, node: str, bundle_id: str) -> bool:
        """Whether the cache that has this bundle selects the Node. Raises StoreBusy while that is not known yet."""


class EveryNode:
    """``NodeCaches`` where all nodes have everything."""

    def has(self, node: str, bundle_id: str) -> bool:
        del node, bundle_id
        return True


class Access:
    """Every method raises Refused for what the caller may not have, StoreBusy, and what the store raises.

    A caller whose Node the API server does not name (before Kubernetes 1.30) may have everything.
    """

    def __init__(self, store: StoreReader, caches: NodeCaches) -> None:
        self._store = store
        self._caches = caches
        self._owners = _Owners(store)

    def bundle(self, caller: Caller, document: Bundle) -> None:
        if any(image.private for image in document.images):
            self._check(caller, [document.id])

    def build(self, caller: Caller, bundle_id: str) -> None:
        self._check(caller, [bundle_id])

    def document(self, caller: Caller, digest: Digest) -> None:
        """Raises BlobNotFound for one that no bundle has: it may be what a deleted one has left."""
        owners = self._owners.current().owners(digest) if caller.node else None
        if owners == ():
            raise BlobNotFound(f"no bundle has document {digest}")
        self._check(caller, owners)

    def layer(self, caller: Caller, name: LayerName) -> None:
        """Raises BlobNotFound for one that no bundle and no build has."""
        owners = self._owners.current().owners(name) if caller.node else None
        if owners is None or self._is_for(caller, owners):
            return
        wanted = self._store.builds_with(name)
        if not owners and not wanted:
            raise BlobNotFound(f"no bundle has layer image {name}")
        self._check(caller, wanted)

    def _check(self, caller: Caller, bundles: Sequence[str] | None) -> None:
        """``bundles``: all that have it, of private images; None: it is everybody's."""
        if caller.node and bundles is not None and not self._is_for(caller, bundles):
            raise Refused(403, NOT_SELECTED, f"no ImageCache that has it is for node {caller.node}")

    def _is_for(self, caller: Caller, bundles: Sequence[str]) -> bool:
        return any(self._caches.has(caller.node, bundle) for bundle in bundles)


class _Contents:
    """Of one version of the store's index: the bundles that have each thing, None for a thing of a public image."""

    def __init__(self, documents: Iterable[Bundle]) -> None:
        self._owners: dict[_Thing, tuple[str, ...] | None] = {}
        for bundle in documents:
            for image in bundle.images:
                owner = bundle.id if image.private else None
                for layer in image.layers:
                    self._add(layer.name, owner)
                for document in image.documents:
                    self._add(document.digest, owner)

    def owners(self, thing: _Thing) -> tuple[str, ...] | None:
        """Empty when no bundle has it."""
        return self._owners.get(thing, ())

    def _add(self, thing: _Thing, owner: str | None) -> None:
        before = self.owners(thing)
        self._owners[thing] = None if owner is None or before is None else (*before, owner)


class _Owners:
    """The contents of the store now. Thread-safe."""

    def __init__(self, store: StoreReader) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._version: object = None
        self._contents = _Contents(())

    def current(self) -> _Contents:
        """Raises StoreError, StoreCorrupt."""
        with self._lock:
            version = self._store.version()
            if version != self._version:
                self._contents, self._version = _Contents(self._store.bundles()), version
            return self._contents
