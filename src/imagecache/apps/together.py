"""Parts of a program that run side by side. It must not know what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


async def first_to_end(*parts: Coroutine[None, None, None]) -> None:
    """Run all until one ends, then end the others; raises what that one raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
