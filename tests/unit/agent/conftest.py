"""A store that a build has filled, a remote store in memory with its content, and an empty store of a node."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from imagecache.store.store import Store
from tests.unit.agent.bench import Bench
from tests.unit.fetch.origin import Fetchers, Origin, fetchers, node, origin, remote, verifier

__all__ = ["bench", "fetchers", "node", "origin", "remote", "verifier"]


@pytest.fixture
async def bench(origin: Origin, node: Store, fetchers: Fetchers) -> AsyncIterator[Bench]:
    bench = Bench(node, origin, fetchers)
    yield bench
    await bench.kill()
