"""A store that a build has filled, a remote store in memory with its content, and an empty store of a node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.cluster.bench import FOLLOW, SMALL, Bench, Fetchers, Origin

from imagecache.cluster.builds import BuildFollower
from imagecache.cluster.fetch import SnapshotFetcher
from imagecache.cluster.follow import LayerFollower
from imagecache.cluster.layers import FetchSettings, LayerFetcher
from imagecache.cluster.ports import Verifier
from imagecache.cluster.verify import TrustingVerifier
from imagecache.store.store import Store
from imagecache.testing.served import MemoryRemoteStore


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
async def fetchers(node: Store, remote: MemoryRemoteStore) -> AsyncIterator[Fetchers]:
    """Make a fetcher of the node; ``verifier`` and ``settings`` may be given."""
    made: list[LayerFetcher | LayerFollower] = []

    def make(verifier: Verifier | None = None, settings: FetchSettings = SMALL) -> SnapshotFetcher:
        proof = verifier or TrustingVerifier()
        layers, follower = LayerFetcher(node, remote, proof, settings), LayerFollower(node, remote, proof, FOLLOW)
        made.extend([layers, follower])
        return SnapshotFetcher(node, remote, layers, BuildFollower(node, remote, follower))

    yield make
    for each in made:
        each.close()


@pytest.fixture
async def bench(origin: Origin, node: Store, fetchers: Fetchers) -> AsyncIterator[Bench]:
    bench = Bench(node, origin, fetchers)
    yield bench
    await bench.kill()
