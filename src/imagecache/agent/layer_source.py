"""Where a node's bundles come from: fetched into its own store, in a store shared with the controller, or described.

``FetchedLayerSource`` owns its store: what no cache and no container needs is removed. ``SharedLayerSource`` reads a
volume that the controller writes, and deletes nothing there. ``DescribedLayerSource`` has no layers. It must not decide
which bundles a node should have.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from imagecache.agent.dependencies import Inventory
from imagecache.api.assignment import Cache
from imagecache.digest import Digest
from imagecache.errors import AlreadyExists, BlobNotFound, ContentError, NotFound, StoreCorrupt
from imagecache.fetch.allowance import Allowance
from imagecache.fetch.bundle import BundleFetcher, Described, own_part
from imagecache.oci.descriptor import Platform
from imagecache.store import verity
from imagecache.store.bundle_document import Bundle
from imagecache.store.documents import BundleDocuments
from imagecache.store.expected_bundle import ExpectedBundle
from imagecache.store.layer_name import LayerName
from imagecache.store.store import Store
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)


class Documents:
    """The store's bundle documents, without those that are damaged, which are logged once. Calls block."""

    def __init__(self, store: Store) -> None:
        self._documents = BundleDocuments(store.bundles)
        self._damaged: set[str] = set()

    def ids(self) -> tuple[str, ...]:
        """Raises StoreError."""
        return self._documents.ids()

    def is_expected(self, bundle_id: str, expected: ExpectedBundle | None) -> bool:
        """Whether a bundle that was fetched is what the API server says, as far as it says something."""
        return expected is None or self._documents.index().whole(bundle_id) == expected.digest

    def get(self, bundle_id: str) -> Bundle | None:
        """One of ``ids``; None when it is damaged. Raises StoreError."""
        try:
            document = self._documents.get(bundle_id)
        except NotFound:
            return None
        except (BlobNotFound, StoreCorrupt) as error:
            if bundle_id not in self._damaged:
                _log.warning("bundle is damaged", bundle=bundle_id, problem=str(error))
            self._damaged.add(bundle_id)
            return None
        self._damaged.discard(bundle_id)
        return document


def expectation(cache: Cache) -> ExpectedBundle:
    """Raises NotFound when the API server does not say which document the bundle has: then there is none to fetch."""
    if cache.expected is None:
        raise NotFound(f"ImageCache {cache.name} has no status.bundleDigest", hint="the controller writes it")
    return cache.expected


def still_expected(described: Mapping[str, Described], assigned: Mapping[str, Cache]) -> dict[str, Described]:
    """Those of the bundles that are assigned to this node, and are still what the API server says."""
    return {
        name: each
        for name, each in described.items()
        if name in assigned and ((expected := assigned[name].expected) is None or expected.digest == each.whole)
    }


def _is(document: Bundle, expected: ExpectedBundle | None) -> bool:
    try:
        if expected is not None:
            expected.check(document)
    except (ContentError, StoreCorrupt):
        return False
    return expected is not None


@dataclass
class FetchedLayerSource:
    """``agent.dependencies.LayerSource``."""

    store: Store
    fetcher: BundleFetcher
    foreign: Callable[[], frozenset[str]] = frozenset
    """Ids of bundles that ``imagecache create`` made on this host: the agent leaves them alone."""
    bounded: bool = True
    _described: dict[str, Described] = field(default_factory=dict)
    _documents: Documents = field(init=False)

    def __post_init__(self) -> None:
        self._documents = Documents(self.store)

    async def inventory(self, assigned: Mapping[str, Cache]) -> Inventory:
        self._described = still_expected(self._described, assigned)
        described = {name: each.document for name, each in self._described.items()}
        builds = self.fetcher.builds
        coming, kept = builds.partial, builds.kept
        expected = {name: cache.expected for name, cache in assigned.items()}
        found = await asyncio.to_thread(self._inventory, expected, described)
        # A layer that became whole since then is present: its bytes count once.
        partial = {name: size for name, size in coming.items() if name not in found.present}
        kept |= builds.kept  # a build that began since then may have layers in ``found``, which nothing else leases
        prefetched = {**partial, **{name: size for name, size in found.present.items() if name in kept}}
        return replace(found, partial={**partial, **found.partial}, prefetched=prefetched, leased=found.leased | kept)

    def _inventory(self, assigned: Mapping[str, ExpectedBundle | None], described: Mapping[str, Bundle]) -> Inventory:
        foreign = self.foreign()
        stored: dict[str, Bundle] = {}
        leased = set(self.store.leases.leased())
        for name in self._documents.ids():
            document = self._documents.get(name)
            if name in foreign:  # counted as leased: they take space and are never evicted for our bundles
                leased |= document.layer_names() if document else set()
            elif document is not None and not self._documents.is_expected(name, assigned.get(name)):
                leased |= document.layer_names()  # until the one that is expected has taken its place
            elif document is not None:
                stored[name] = document
            elif name not in assigned:
                self._delete(name)  # damaged and of no cache: while it exists, nothing can be collected
        present = self._layers()
        whole = frozenset(name for name, document in stored.items() if self._is_whole(document, present))
        partial: dict[LayerName, int] = {}
        for document in described.values():
            partial |= self._parts(document, present)
        return Inventory({**described, **stored}, whole, present, partial, leased=frozenset(leased))

    def _layers(self) -> dict[LayerName, int]:
        found = {}
        for path, name in self.store.paths.layer_files():
            with contextlib.suppress(FileNotFoundError):
                if name is not None:
                    found[name] = path.stat().st_size
        return found

    def _parts(self, document: Bundle, present: Mapping[LayerName, int]) -> dict[LayerName, int]:
        """Bytes of its layer images that were fetched so far."""
        found = {}
        for layer in (layer for image in document.images for layer in image.layers if layer.name not in present):
            with contextlib.suppress(FileNotFoundError):
                found[layer.name] = self.store.paths.download(layer.digest).stat().st_size
        return found

    def _is_whole(self, document: Bundle, present: Mapping[LayerName, int]) -> bool:
        # sizes, not digests: layers were verified when they were written, and hashing again would read the whole store
        layers = all(present.get(layer.name) == layer.size for image in document.images for layer in image.layers)
        return layers and all(self.store.blobs.has(digest) for digest in document.document_digests())

    async def describe(self, cache: Cache) -> None:
        self._described[cache.id] = await self.fetcher.describe(expectation(cache))

    async def fetch(self, cache: Cache, progress: Callable[[int], None]) -> None:
        if cache.id not in self._described:
            await self.describe(cache)
        described = self._described[cache.id]
        try:
            try:
                await self.fetcher.fetch(described, progress)
            except AlreadyExists:  # the bundle on this node is an earlier one with the same id
                await self.forget(cache.id)
                await self.fetcher.fetch(described, progress)
        except (ContentError, StoreCorrupt, BlobNotFound):
            self._described.pop(cache.id, None)  # it may have been built again meanwhile
            raise

    async def prefetch(self, bundle_id: str, allowance: Allowance) -> None:
        await self.fetcher.builds.prefetch(bundle_id, allowance)

    async def forget(self, bundle_id: str) -> None:
        await asyncio.to_thread(self._delete, bundle_id)

    def _delete(self, bundle_id: str) -> None:
        if bundle_id not in self.foreign():
            with contextlib.suppress(NotFound):
                self.store.bundles.delete(bundle_id)

    async def collect(self) -> None:
        collected = await asyncio.to_thread(self.store.collect)
        if collected.layers:
            _log.info("layer images removed", count=len(collected.layers), bytes=collected.freed)


@dataclass
class SharedLayerSource:
    """``agent.dependencies.LayerSource``: a bundle is on the node as soon as the controller has built it.

    Its document is compared with what the API server says at every look: everybody who can write to the directory could
    have put another one there. Those that agree are served to containerd, and no others.
    """

    store: Store
    platform: Platform
    """Of this node."""
    bounded: bool = False
    _documents: Documents = field(init=False)

    def __post_init__(self) -> None:
        self._documents = Documents(self.store)

    async def inventory(self, assigned: Mapping[str, Cache]) -> Inventory:
        return await asyncio.to_thread(self._inventory, assigned)

    def _inventory(self, assigned: Mapping[str, Cache]) -> Inventory:
        found = {name: self._documents.get(name) for name in self._documents.ids() if name in assigned}
        expected = (each for name, each in found.items() if each is not None and _is(each, assigned[name].expected))
        own = (document.on(self.platform) for document in expected)
        documents = {document.id: document for document in own if document.images}
        self.store.serve(documents.values())
        return Inventory(documents, frozenset(name for name, each in documents.items() if not self._missing(each)))

    def _missing(self, document: Bundle) -> list[LayerName]:
        sealed = {layer.name: layer.verity for image in document.images for layer in image.layers}
        path = self.store.layers.path
        return sorted(name for name, digest in sealed.items() if not verity.is_there(path(name), digest))

    async def describe(self, cache: Cache) -> None:
        await asyncio.to_thread(self._read, cache)

    def _read(self, cache: Cache) -> Bundle:
        document = self.store.bundles.get(cache.id)
        expectation(cache).check(document)
        return own_part(document, self.platform)

    async def fetch(self, cache: Cache, progress: Callable[[int], None]) -> None:
        del progress
        document = await asyncio.to_thread(self._read, cache)
        missing = await asyncio.to_thread(self._missing, document)
        if missing:
            raise BlobNotFound(f"the shared store lacks {missing[0]}, as it was built", hint="run: imagecache check")

    async def prefetch(self, bundle_id: str, allowance: Allowance) -> None:
        """Nothing: the build writes into this very store."""

    async def forget(self, bundle_id: str) -> None:
        """Nothing: the controller deletes."""

    async def collect(self) -> None:
        """Nothing: the controller collects."""


@dataclass
class DescribedLayerSource:
    """``agent.dependencies.LayerSource`` for prepull mode: layers are the runtime's, so documents are enough."""

    look_up: Callable[[Cache], Awaitable[Described]]
    """From wherever the controller's store is."""
    bounded: bool = False
    _described: dict[str, Described] = field(default_factory=dict)

    async def inventory(self, assigned: Mapping[str, Cache]) -> Inventory:
        self._described = still_expected(self._described, assigned)
        return Inventory({name: each.document for name, each in self._described.items()}, frozenset(self._described))

    def read(self, digest: Digest) -> bytes:
        """``containerd.api.Documents``, of the bundles that are assigned. Raises BlobNotFound."""
        for described in self._described.values():
            if digest in described.bodies:
                return described.bodies[digest]
        raise BlobNotFound(f"no bundle that is assigned to this node has the document {digest}")

    async def describe(self, cache: Cache) -> None:
        self._described[cache.id] = await self.look_up(cache)

    async def fetch(self, cache: Cache, progress: Callable[[int], None]) -> None:
        del progress
        await self.describe(cache)

    async def prefetch(self, bundle_id: str, allowance: Allowance) -> None:
        """Nothing: layers are brought by attach, or pulled by the runtime."""

    async def forget(self, bundle_id: str) -> None:
        self._described.pop(bundle_id, None)

    async def collect(self) -> None:
        """Nothing: this node has no store."""
