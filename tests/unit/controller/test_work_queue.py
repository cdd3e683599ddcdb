"""The work queue: each name once, one look at a time, the earlier of two times."""

from __future__ import annotations

import asyncio

from imagecache.controller.work_queue import WorkQueue


async def test_a_name_waits_once() -> None:
    queue = WorkQueue()
    for name in ("a", "b", "a"):
        queue.add(name)

    assert [await queue.take(), await queue.take()] == ["a", "b"]
    assert not queue._ready


async def test_a_name_that_is_looked_at_comes_back_afterwards() -> None:
    queue = WorkQueue()
    queue.add("a")
    name = await queue.take()
    queue.add("a")
    queue.add("a")
    assert not queue._ready

    queue.done(name)
    assert await queue.take() == "a"
    queue.done("a")
    assert not queue._ready


async def test_the_earlier_time_counts() -> None:
    queue = WorkQueue()
    queue.add("late", 60)
    queue.add("late", 0.01)
    queue.add("late", 30)
    queue.add("now", 60)
    queue.add("now")
    queue.add("now", 5)

    assert await queue.take() == "now"
    async with asyncio.timeout(5):
        assert await queue.take() == "late"
    assert queue._timers == {}


async def test_what_was_forgotten_does_not_come() -> None:
    queue = WorkQueue()
    queue.add("a", 0.001)
    queue.add("b", 0.01)
    queue.forget("a")
    queue.forget("never")

    assert await queue.take() == "b"
    queue.add("c", 60)
    queue.close()
    assert queue._timers == {}


async def test_a_waiting_taker_gets_what_comes() -> None:
    queue = WorkQueue()
    task = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.add("a")

    assert await task == "a"
