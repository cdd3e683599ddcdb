"""A store that a build has filled, a remote store in memory with its content, and an empty store of a node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imagecache.build.builder import BuildSettings, ImageBuilder
from imagecache.clock import SystemClock
from imagecache.cluster.fetch import SnapshotFetcher
from imagecache.cluster.layers import FetchSettings, LayerFetcher
from imagecache.cluster.ports import Verifier
from imagecache.cluster.verify import TrustingVerifier
from imagecache.limits import GIB
from imagecache.oci.descriptor import Platform
from imagecache.served.directory import StoreReader
from imagecache.store.model import SnapshotDocument
from imagecache.store.store import Store
from imagecache.testing.images_oci import memory_image
from imagecache.testing.registry import MemorySource
from imagecache.testing.served import MemoryRemoteStore

SMALL = FetchSettings(range_size=64 << 10)


@dataclass
class Origin:
    """Where snapshots are built."""

    root: Path
    remote: MemoryRemoteStore = field(default_factory=MemoryRemoteStore)

    async def build(self, snapshot_id: str, *tars: bytes, name: str = "app:1") -> SnapshotDocument:
        store = Store.open(self.root)
        source = MemorySource({name: memory_image(tars)})
        builder = ImageBuilder(store, SystemClock(), BuildSettings(jobs=1))
        document = await builder.build(
            snapshot_id,
            [name],
            platform=Platform(os="linux", architecture="amd64"),
            size_limit=GIB,
            source=source,
            emit=lambda _event: None,
        )
        self.remote.add_store(StoreReader(self.root), snapshot_id)
        return document


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path / "origin")


@pytest.fixture
def remote(origin: Origin) -> MemoryRemoteStore:
    return origin.remote


@pytest.fixture
def node(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "node")


Fetchers = Callable[..., SnapshotFetcher]


@pytest.fixture
async def fetchers(node: Store, remote: MemoryRemoteStore) -> AsyncIterator[Fetchers]:
    """Make a fetcher of the node; ``verifier`` and ``settings`` may be given."""
    made: list[LayerFetcher] = []

    def make(verifier: Verifier | None = None, settings: FetchSettings = SMALL) -> SnapshotFetcher:
        made.append(LayerFetcher(node, remote, verifier or TrustingVerifier(), settings))
        return SnapshotFetcher(node, remote, made[-1])

    yield make
    for layers in made:
        layers.close()
