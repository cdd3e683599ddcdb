"""When a node reports: the times are the event loop's own, the pauses longer than any test."""

from __future__ import annotations

import asyncio

import pytest

from imagecache.agent.rate_limit import RateLimit

LONG = 3600.0


async def waits(limit: RateLimit, settled: asyncio.Event) -> bool:
    """Whether it is still waiting when every other task has run."""
    waiting = asyncio.create_task(limit.wait(settled))
    for _ in range(20):
        await asyncio.sleep(0)
    if waiting.done():
        return False
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    return True


@pytest.fixture
def settled() -> asyncio.Event:
    return asyncio.Event()


async def test_progress_waits(settled: asyncio.Event) -> None:
    limit = RateLimit(LONG)
    limit.reported()

    assert await waits(limit, settled)


async def test_a_settled_cache_is_reported_at_once(settled: asyncio.Event) -> None:
    limit = RateLimit(LONG)
    limit.reported()
    settled.set()

    async with asyncio.timeout(5):
        await limit.wait(settled)


async def test_a_cache_that_settles_during_the_pause(settled: asyncio.Event) -> None:
    limit = RateLimit(LONG)
    limit.reported()
    asyncio.get_running_loop().call_soon(settled.set)

    async with asyncio.timeout(5):
        await limit.wait(settled)


async def test_many_settled_caches_wait_for_each_other(settled: asyncio.Event) -> None:
    limit = RateLimit(LONG)
    limit.reported()
    limit.reported()
    settled.set()

    assert await waits(limit, settled)


async def test_a_pause_of_zero(settled: asyncio.Event) -> None:
    limit = RateLimit(0.0)
    limit.reported()
    limit.reported()

    async with asyncio.timeout(5):
        await limit.wait(settled)
