from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from imagecache.served.server_settings import ServerSettings
from imagecache.store.store import Store
from testkit.clock import FakeClock
from testkit.served import Served

Serve = Callable[[ServerSettings], Awaitable[Served]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def serve(store: Store, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Serve]:
    """Serves with other settings. No server leaves a thread."""
    async with AsyncExitStack() as stack:

        async def start(settings: ServerSettings) -> Served:
            return await stack.enter_async_context(Served(store.root, tmp_path / "tls", clock=clock, server=settings))

        yield start
    assert [each.name for each in threading.enumerate() if each.name.startswith("served-")] == []


@pytest.fixture
async def served(serve: Serve) -> Served:
    return await serve(ServerSettings())
