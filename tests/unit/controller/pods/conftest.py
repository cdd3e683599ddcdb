"""The bench of each test, with one node."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from testkit.clock import FakeClock
from testkit.kube import FakeKube

from .bench import Bench


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = FakeClock()
    found = Bench(FakeKube(clock), clock)
    await found.node("node-1")
    yield found
    for controller in found.controllers:
        await controller.kill()
