"""The bundles of a store, for the controller of a cluster and for a host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager

from imagecache.api.ids import owner_of
from imagecache.digest import Digest
from imagecache.errors import StoreError
from imagecache.oci.descriptor import Descriptor
from imagecache.store.bundle_document import Bundle
from imagecache.store.collect import Collected
from imagecache.store.documents import BundleDocuments
from imagecache.store.layer_name import LayerName
from imagecache.store.oci_layout import LayoutIndex
from imagecache.store.store import Store


class LocalBundles:
    """``controller.dependencies.BundleStore`` over a directory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._documents = BundleDocuments(store.bundles)
        self._owned: tuple[LayoutIndex | None, dict[str, list[str]]] = (None, {})
        """An index, and its ids by their owners: with a thousand caches each look would go through a thousand ids."""
        self._sizes: dict[Digest, dict[LayerName, int]] = {}
        """Layer images of each bundle, by the digest of its entry: read once."""
        self._listed: tuple[LayoutIndex | None, dict[str, dict[LayerName, int]]] = (None, {})

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

    def layers(self) -> Mapping[str, Mapping[LayerName, int]]:
        index = self._documents.index()
        known, layers = self._listed
        if known is not index:
            sizes = {entry.digest: self._layers(entry) for entry in index.manifests}
            layers = dict(zip(index.ids, sizes.values(), strict=True))
            self._sizes, self._listed = sizes, (index, layers)
        return layers

    def _layers(self, entry: Descriptor) -> dict[LayerName, int]:
        """None of a bundle that is damaged, or was deleted meanwhile."""
        if known := self._sizes.get(entry.digest):
            return known
        try:
            document = self._documents.load(entry)
        except StoreError:
            return {}
        return {layer.name: layer.size for image in document.images for layer in image.layers}

    def hold(self, bundle_id: str) -> AbstractContextManager[object]:
        return self._store.leases.build_lease(self._store.leases.wanted_by(bundle_id))

    def collect(self) -> Collected:
        return self._store.collect()
