"""The bench of each test, with one node."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from testkit.clock import FakeClock
from testkit.kube import FakeKube

from .bench import Bench, running


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = FakeClock()
    async with running(Bench(FakeKube(clock), clock)) as bench:
        yield bench
