"""What an agent may read: all of public images, and of private ones what an ImageCache for its own Node has.

A layer that a public image has, too, is public. Of a build nothing is known yet, so its layers are for its own nodes.
Blocking, for threads. It must not know how nodes and caches are found.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

from imagecache.digest import Digest
from imagecache.errors import BlobNotFound, StoreError
from imagecache.oci.descriptor import Descriptor
from imagecache.served.authenticator import Caller, Refused
from imagecache.served.protocol import NOT_SELECTED
from imagecache.served.store_reader import StoreReader
from imagecache.store.bundle_document import Bundle
from imagecache.store.layer_name import LayerName
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_Thing: TypeAlias = LayerName | Digest
_Part: TypeAlias = tuple[str | None, tuple[_Thing, ...]]
"""What an image has, and the id of its bundle if it is private; None: it is public."""


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


def _parts(bundle: Bundle) -> tuple[_Part, ...]:
    return tuple(
        (
            bundle.id if image.private else None,
            (*(layer.name for layer in image.layers), *(document.digest for document in image.documents)),
        )
        for image in bundle.images
    )


class _Contents:
    """Of one version of the store's index: the bundles that have each thing, None for a thing of a public image."""

    def __init__(self, parts: Iterable[_Part]) -> None:
        self._owners: dict[_Thing, tuple[str, ...] | None] = {}
        for owner, things in parts:
            for thing in things:
                before = self.owners(thing)
                self._owners[thing] = None if owner is None or before is None else (*before, owner)

    def owners(self, thing: _Thing) -> tuple[str, ...] | None:
        """Empty when no bundle has it."""
        return self._owners.get(thing, ())


class _Owners:
    """The contents of the store now. Thread-safe."""

    def __init__(self, store: StoreReader) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._version: object = None
        self._bundles: dict[Digest, tuple[_Part, ...]] = {}
        """By digest of their entries in the index: a bundle never changes, so each is read once."""
        self._contents = _Contents(())

    def current(self) -> _Contents:
        """Raises StoreError, StoreCorrupt for the index."""
        with self._lock:
            version = self._store.version()
            if version != self._version:
                read = ((entry.digest, self._read(entry)) for entry in self._store.entries())
                self._bundles = {digest: parts for digest, parts in read if parts is not None}
                self._contents = _Contents(part for parts in self._bundles.values() for part in parts)
                self._version = version
            return self._contents

    def _read(self, entry: Descriptor) -> tuple[_Part, ...] | None:
        """None: it is damaged, or was deleted just now. It keeps nobody from the others."""
        known = self._bundles.get(entry.digest)
        if known is not None:
            return known
        try:
            return _parts(self._store.load(entry))
        except StoreError as error:
            _log.warning("bundle cannot be read, so nodes get nothing that it alone has", problem=str(error))
            return None
