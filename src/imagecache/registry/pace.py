"""How slowly a server may send: whoever drips a byte now and then must not hold a build.

A server has a time for the start of an answer, and then has to send at a rate, measured over a window. So a request of
known size has a longest time, too. Only waiting for the server counts, not what the caller does between two pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import aiohttp

from imagecache.backoff import Retryable
from imagecache.errors import RegistryUnavailable
from imagecache.limits import KIB, Limits


class TooSlow(Retryable):
    """Other than after a broken connection, what has arrived until then is no progress."""


async def pieces(response: aiohttp.ClientResponse, host: str, what: str, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body as it arrives from ``host``. Raises TooSlow; ``what`` names it in the message."""
    clock = asyncio.get_running_loop().time
    least = limits.transfer_rate * limits.transfer_window
    left, received = limits.transfer_window, 0
    while True:
        start = clock()
        try:
            async with asyncio.timeout(left):
                piece = await response.content.readany()
        except TimeoutError as error:
            if isinstance(error, aiohttp.ServerTimeoutError):  # no byte at all for the read timeout
                raise
            raise _too_slow(host, what, received, limits) from error
        if not piece:
            return
        left -= clock() - start
        received += len(piece)
        if received >= least:
            left, received = limits.transfer_window, 0
        yield piece


def _too_slow(host: str, what: str, received: int, limits: Limits) -> TooSlow:
    return TooSlow(
        RegistryUnavailable(
            f"{host} sends {what} too slowly: {received} bytes in {limits.transfer_window:g} s of waiting, "
            f"at least {limits.transfer_rate / KIB:g} KiB/s are expected",
            hint="check the network between here and there; what has arrived of a layer is kept",
        )
    )
