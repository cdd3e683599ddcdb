"""The bundles of a store, for the controller of a cluster and for a host."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from imagecache.store.bundle_document import Bundle
from imagecache.store.collect import Collected
from imagecache.store.documents import BundleDocuments
from imagecache.store.store import Store


class LocalBundles:
    """``controller.dependencies.BundleStore`` over a directory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._documents = BundleDocuments(store.bundles)

    def ids(self) -> Collection[str]:
        return self._documents.ids()

    def get(self, bundle_id: str) -> Bundle:
        return self._documents.get(bundle_id)

    def all(self) -> Sequence[Bundle]:
        return self._store.bundles.all()

    def delete(self, bundle_id: str) -> None:
        self._store.bundles.delete(bundle_id)

    def collect(self) -> Collected:
        return self._store.collect()
