"""The bundles of a store, for the controller of a cluster and for a host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from imagecache.api.ids import owner_of
from imagecache.store.bundle_document import Bundle
from imagecache.store.collect import Collected
from imagecache.store.documents import BundleDocuments
from imagecache.store.oci_layout import LayoutIndex
from imagecache.store.store import Store


class LocalBundles:
    """``controller.dependencies.BundleStore`` over a directory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._documents = BundleDocuments(store.bundles)
        self._owned: tuple[LayoutIndex | None, dict[str, list[str]]] = (None, {})
        """An index, and its ids by their owners: with a thousand caches each look would go through a thousand ids."""

    def ids(self, owner: str) -> Collection[str]:
        index = self._documents.index()
        known, owned = self._owned
        if known is not index:
            owned = defaultdict(list)
            for name in index.ids:
                owned[owner_of(name)].append(name)
            self._owned = (index, owned)  # at once: other threads ask too
        return owned.get(owner, ())

    def get(self, bundle_id: str) -> Bundle:
        return self._documents.get(bundle_id)

    def all(self) -> Sequence[Bundle]:
        return self._store.bundles.all()

    def delete(self, bundle_id: str) -> None:
        self._store.bundles.delete(bundle_id)

    def collect(self) -> Collected:
        return self._store.collect()
