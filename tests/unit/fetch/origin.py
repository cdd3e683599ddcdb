"""A store that builds fill, a remote store in memory with its content, and an empty store of a node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imagecache.backoff import Backoff
from imagecache.builder.bundle_builder import BuildSettings, BundleBuilder
from imagecache.builder.resolve_platforms import Platforms
from imagecache.builder.worker_pool import WorkerPool
from imagecache.clock import SystemClock
from imagecache.erofs.layer_header import DATA_START
from imagecache.fetch.bundle import BundleFetcher
from imagecache.fetch.prefetch import BuildPrefetcher
from imagecache.fetch.transfer import FetchSettings, LayerFetcher
from imagecache.fetch.verifier import Verifier
from imagecache.fetch.wire_form import WireForm
from imagecache.limits import GIB
from imagecache.oci.descriptor import Platform
from imagecache.served.store_reader import StoreReader
from imagecache.store.bundle_document import Bundle, LayerRecord
from imagecache.store.store import Store
from testkit.images_oci import memory_image
from testkit.registry import MemorySource
from testkit.served import MemoryRemoteStore

SMALL = FetchSettings(range_size=64 << 10)
PREFETCH = FetchSettings(range_size=64 << 10, ranges=2, threads=4, pause=0.001)


@dataclass
class Origin:
    """Where bundles are built."""

    root: Path
    remote: MemoryRemoteStore = field(default_factory=MemoryRemoteStore)

    async def build(self, bundle_id: str, *tars: bytes, name: str = "app:1") -> Bundle:
        store = Store.open(self.root)
        source = MemorySource({name: memory_image(tars)})
        builder = BundleBuilder(store, SystemClock(), BuildSettings(jobs=1))
        document = await builder.build(
            bundle_id,
            [name],
            platforms=Platforms((Platform(os="linux", architecture="amd64"),)),
            size_limit=GIB,
            source=source,
            emit=lambda _event: None,
        )
        self.remote.add_store(StoreReader(self.root), bundle_id)
        return document


class PartialLayer:
    """A layer image that a build is still writing, made of a finished one."""

    def __init__(self, remote: MemoryRemoteStore, layer: LayerRecord) -> None:
        self.name = layer.name
        self.content = remote.layers.pop(layer.name)
        self._tar_end = DATA_START + layer.tar_size
        self._so_far = self.content
        self._remote = remote

    @property
    def sent(self) -> int:
        """Bytes that the remote store has sent."""
        return self._remote.fetched[self.name]

    def grow(self, end: int) -> None:
        """Write the file up to ``end``: only bytes of the tar, and its head means nothing."""
        self._remote.unfinished[self.name] = bytes(DATA_START) + self._so_far[DATA_START : min(end, self._tar_end)]

    def spoil(self, at: int) -> None:
        """Until ``finish``, the byte at this offset is a wrong one."""
        self._so_far = self.content[:at] + bytes([self.content[at] ^ 1]) + self.content[at + 1 :]

    def finish(self) -> None:
        self._remote.layers[self.name] = self.content
        self.abandon()

    def abandon(self) -> None:
        self._remote.unfinished.pop(self.name, None)


Fetchers = Callable[..., BundleFetcher]


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path / "origin")


@pytest.fixture
def remote(origin: Origin) -> MemoryRemoteStore:
    return origin.remote


@pytest.fixture
def node(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "node")


@pytest.fixture
async def verifier() -> AsyncIterator[Verifier]:
    """Its workers start with the first layer."""
    async with WorkerPool(4) as pool:
        yield Verifier(pool)


@pytest.fixture
async def fetchers(node: Store, remote: MemoryRemoteStore, verifier: Verifier) -> AsyncIterator[Fetchers]:
    """Make a fetcher of the node; ``settings`` and ``form`` may be given."""
    made: list[LayerFetcher] = []

    def make(settings: FetchSettings = SMALL, form: WireForm | None = None) -> BundleFetcher:
        layers = LayerFetcher(node, remote, verifier, settings, form=form)
        partial = LayerFetcher(node, remote, verifier, PREFETCH)
        made.extend([layers, partial])
        builds = BuildPrefetcher(node, remote, partial, "amd64", Backoff(0.001, 0.01))
        return BundleFetcher(node, remote, layers, builds, Platform(os="linux", architecture="amd64"))

    yield make
    for each in made:
        each.close()
