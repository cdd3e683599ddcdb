"""Coroutines that run side by side and end together.

Why not ``asyncio.TaskGroup``: it raises an ``ExceptionGroup``, and every edge of ours (CLI, gRPC, status) translates
one error. Why not a plain ``asyncio.gather``: after a failure it leaves the other tasks running, with files and leases
that the caller has already closed. It must not know what the coroutines do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import TypeVar, overload

_T = TypeVar("_T")
_First = TypeVar("_First")
_Second = TypeVar("_Second")


async def cancel_all(tasks: Iterable[asyncio.Future[_T]]) -> None:
    """Cancel the tasks and wait until all have ended; their results and errors are dropped."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


@overload
async def run_all(
    first: Coroutine[object, object, _First], second: Coroutine[object, object, _Second], /
) -> tuple[_First, _Second]: ...
@overload
async def run_all(*works: Coroutine[object, object, _T]) -> tuple[_T, ...]: ...
async def run_all(*works: Coroutine[object, object, object]) -> tuple[object, ...]:
    """All results, in order. The first failure cancels the others, and is raised when they have ended."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return tuple(await asyncio.gather(*tasks))
    finally:
        await cancel_all(tasks)


async def finish_all(*works: Coroutine[object, object, _T]) -> tuple[_T, ...]:
    """All results, in order. A failure does not cancel the others; the first is raised when all have ended.

    For works that must not be cut in the middle, since they leave something that the caller removes.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        if tasks:  # asyncio refuses to wait for nothing
            await asyncio.wait(tasks)
        return tuple(task.result() for task in tasks)
    finally:
        await cancel_all(tasks)


async def first_to_end(*works: Coroutine[object, object, None]) -> None:
    """Run all until one ends, then cancel the others. Raises what that one raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_all(tasks)
    for task in done:
        task.result()
