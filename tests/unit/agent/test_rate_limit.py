"""When a node reports: the times are the event loop's own, the pauses longer than any test."""

from __future__ import annotations

import asyncio

import pytest

from imagecache.agent.rate_limit import RateLimit

LONG = 3600.0


async def rests(limit: RateLimit, settled: asyncio.Event) -> bool:
    """Whether it is still resting when everything else has had its turn."""
    resting = asyncio.create_task(limit.wait(settled))
    for _ in range(20):
        await asyncio.sleep(0)
    if resting.done():
        return False
    resting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await resting
    return True


@pytest.fixture
def settled() -> asyncio.Event:
    return asyncio.Event()


async def test_progress_waits(settled: asyncio.Event) -> None:
    limit = RateLimit(LONG)
    limit.reported()

    assert await rests(limit, settled)


async def test_an_end_is_told_at_once(settled: asyncio.Event) -> None:
    limit = RateLimit(LONG)
    limit.reported()
    settled.set()

    async with asyncio.timeout(5):
        await limit.wait(settled)


async def test_an_end_that_comes_while_it_rests(settled: asyncio.Event) -> None:
    limit = RateLimit(LONG)
    limit.reported()
    asyncio.get_running_loop().call_soon(settled.set)

    async with asyncio.timeout(5):
        await limit.wait(settled)


async def test_many_ends_wait_for_each_other(settled: asyncio.Event) -> None:
    limit = RateLimit(LONG)
    limit.reported()
    limit.reported()
    settled.set()

    assert await rests(limit, settled)


async def test_no_pause_is_none(settled: asyncio.Event) -> None:
    limit = RateLimit(0.0)
    limit.reported()
    limit.reported()

    async with asyncio.timeout(5):
        await limit.wait(settled)
