"""A watch without end: begun again after each end and each failure, with pauses that grow. It must not know what of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar

from imagecache.backoff import Backoff, Retries
from imagecache.errors import ImageCacheError, WatchExpired

BACKOFF = Backoff(0.5, 30.0, jitter=0.2)
"""While the API server does not answer; every node of a cluster waits for the same one."""
_SHORT = 1.0
"""Seconds; a watch that ends sooner with nothing to report is a failure (client-go's "very short watch"), or a server
that closes at once would be asked without a pause."""

_T = TypeVar("_T")


async def resuming(
    once: Callable[[], AsyncIterator[_T]], expired: Callable[[], None], retries: Retries
) -> AsyncGenerator[_T, None]:
    """All that ``once`` yields, again and again. Errors of ours are logged once and retried, never raised.

    Args:
        once: one watch, from where the last one ended, after a list when there is no such place.
        expired: forgets that place.
        retries: the pauses.
    """
    loop = asyncio.get_running_loop()
    while True:
        received, started = False, loop.time()
        try:
            async for each in once():
                yield each
                received = True
                retries.succeeded()
            if received or loop.time() - started >= _SHORT:
                retries.succeeded()
                continue  # the server ends a watch after some minutes: that is no failure
            pause = retries.failed()
        except WatchExpired:  # etcd compacts after five minutes; a pause, since thousands may list at once
            expired()
            pause = retries.failed()
        except ImageCacheError as error:
            pause = retries.failed(error)
        await asyncio.sleep(pause)
