from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.store.store import Store
from testkit.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Store:
    return Store.open(tmp_path / "store", clock)
