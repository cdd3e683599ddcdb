"""How long a build may take: a time for every build, and more by the bytes that it has to download.

So nothing that a registry does can hold a place for builds without end. A build that is stopped here leaves what has
arrived, and the next one goes on with it. It must not know what the build does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from imagecache.errors import RegistryUnavailable
from imagecache.limits import MIB, Limits

Allow = Callable[[int], None]
"""Gives the build time for so many bytes of compressed layers, as soon as they are known."""


@asynccontextmanager
async def build_time(limits: Limits) -> AsyncIterator[Allow]:
    """The block is cancelled when its time has passed. Raises RegistryUnavailable then."""
    loop = asyncio.get_running_loop()
    start, seconds, known = loop.time(), limits.build_time, 0

    def allow(size: int) -> None:
        nonlocal seconds, known
        seconds, known = limits.build_time + size / limits.build_rate, size
        timeout.reschedule(start + seconds)

    try:
        async with asyncio.timeout(limits.build_time) as timeout:
            yield allow
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise RegistryUnavailable(
            f"the build did not end within {seconds:g} s, its time for {known / MIB:.0f} MiB of compressed layers",
            hint="what has arrived is kept, and the next build goes on with it; a slow registry or network is the "
            "cause as a rule",
        ) from error
