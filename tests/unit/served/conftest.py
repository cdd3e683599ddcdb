from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imagecache.store.store import Store
from imagecache.testing.clock import FakeClock
from imagecache.testing.served import Served


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def served(store: Store, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Served]:
    async with Served(store.root, tmp_path / "tls", clock=clock) as served:
        yield served
