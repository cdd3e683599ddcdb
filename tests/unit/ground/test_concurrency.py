from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from imagecache.concurrency import cancel_all, finish_all, first_to_end, run_all

Run = Callable[..., Awaitable[object]]


@dataclass
class Works:
    """Coroutines that write down how they ended."""

    ended: list[str] = field(default_factory=list)

    async def returns(self, value: int) -> int:
        await asyncio.sleep(0)
        self.ended.append(f"returned {value}")
        return value

    async def fails(self, words: str) -> int:
        await asyncio.sleep(0)
        raise ValueError(words)

    async def waits(self) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # the end of a cancelled work takes a while, and is waited for
            self.ended.append("cancelled")
            raise
        return 0

    async def late(self) -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        return await self.returns(9)


@pytest.fixture
def works() -> Works:
    return Works()


@pytest.mark.parametrize("run", [run_all, finish_all])
async def test_results_come_in_the_order_of_the_works(works: Works, run: Run) -> None:
    assert await run(works.late(), works.returns(1), works.returns(2)) == (9, 1, 2)


async def test_no_works_have_no_results() -> None:
    assert await run_all() == ()


async def test_the_first_failure_cancels_the_others_and_is_raised_when_they_have_ended(works: Works) -> None:
    with pytest.raises(ValueError, match="one"):
        await run_all(works.waits(), works.fails("one"), works.waits())
    assert works.ended == ["cancelled", "cancelled"]


async def test_a_failure_leaves_the_others_to_finish(works: Works) -> None:
    with pytest.raises(ValueError, match="one"):
        await finish_all(works.fails("one"), works.late(), works.fails("two"))
    assert works.ended == ["returned 9"]


async def end(*works: Awaitable[object]) -> None:
    """``first_to_end`` for works that return something."""

    async def without(work: Awaitable[object]) -> None:
        await work

    await first_to_end(*map(without, works))


@pytest.mark.parametrize("run", [run_all, finish_all, end])
async def test_a_cancellation_reaches_all_and_waits_for_them(works: Works, run: Run) -> None:
    async def both() -> None:
        await run(works.waits(), works.waits())

    task = asyncio.create_task(both())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert works.ended == ["cancelled", "cancelled"]


async def test_the_first_to_end_ends_the_others(works: Works) -> None:
    await end(works.waits(), works.returns(1), works.waits())
    assert works.ended == ["returned 1", "cancelled", "cancelled"]


async def test_the_first_to_end_raises_what_it_met(works: Works) -> None:
    with pytest.raises(ValueError, match="one"):
        await end(works.waits(), works.fails("one"))
    assert works.ended == ["cancelled"]


async def test_cancelled_tasks_have_ended_and_their_errors_are_dropped(works: Works) -> None:
    tasks = [asyncio.create_task(works.waits()), asyncio.create_task(works.fails("one"))]
    await asyncio.sleep(0.01)
    await cancel_all(tasks)
    assert works.ended == ["cancelled"]
    assert all(task.done() for task in tasks)


async def test_nothing_to_do_is_done() -> None:
    assert await finish_all() == ()
    assert await run_all() == ()
