"""A fake registry, a client in front of it, and time that passes only when somebody sleeps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from imagecache.registry.client import RegistryClient
from imagecache.registry.config import RegistryConfig
from imagecache.registry.credentials import Credentials
from testkit.registry import FakeRegistry, FakeTime


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry(users={"alice": "s3cr3t-word"}) as registry:
        yield registry


@pytest.fixture
async def other() -> AsyncIterator[FakeRegistry]:
    """A registry on another port, which is another host."""
    async with FakeRegistry(users={"alice": "s3cr3t-word"}) as registry:
        yield registry


@pytest.fixture
def config(registry: FakeRegistry, time: FakeTime) -> RegistryConfig:
    return RegistryConfig(
        plain_http=frozenset({registry.address}),
        clock=time.clock,
        sleep=time.sleep,
        backoff=replace(RegistryConfig().backoff, chance=lambda: 0.5),
    )


Connect = Callable[..., Awaitable[RegistryClient]]


@pytest.fixture
async def connect(config: RegistryConfig) -> AsyncIterator[Connect]:
    """Open a client; ``credentials``, and fields of the configuration as keywords."""
    async with AsyncExitStack() as stack:

        async def make(credentials: Credentials | None = None, **changes: Any) -> RegistryClient:
            return await stack.enter_async_context(RegistryClient(replace(config, **changes), credentials))

        yield make
