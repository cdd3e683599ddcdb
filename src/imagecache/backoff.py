"""Trying again: how long to wait, how often, and what of it is logged.

``Backoff`` computes pauses, ``Retries`` tries without end and logs a problem once, ``Attempts`` gives up after a number
of tries. Source: "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015). It must not decide what may be tried
again: the caller catches its own errors, or raises ``Retryable``.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from imagecache.errors import ImageCacheError

_T = TypeVar("_T")
_DOUBLINGS = 32
"""More change nothing: every ``longest`` is reached by then, and 2.0 ** 1024 would overflow."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses in seconds that double from ``first`` to ``longest``; equal ones make a constant pause."""

    first: float
    longest: float
    jitter: float = 0.0
    """Share by which a pause varies in both directions, so that many clients do not come back at the same moment."""
    chance: Callable[[], float] = random.random
    """Uniform in [0, 1), for the jitter."""

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (1: the first)."""
        whole = min(self.longest, self.first * 2.0 ** min(failures - 1, _DOUBLINGS))
        return whole * (1 + self.jitter * (2 * self.chance() - 1)) if self.jitter else whole


class Retries:
    """One thing that is tried until it works. A problem is logged once, until it changes or the thing has worked.

    Args:
        backoff: the pauses.
        log: where problems go; None: nowhere.
        message: the constant text of the log line.
        context: key/values of every line.
    """

    def __init__(
        self,
        backoff: Backoff,
        log: FilteringBoundLogger | None = None,
        message: str = "will try again",
        **context: str,
    ) -> None:
        self._backoff = backoff
        self._log = log
        self._message = message
        self._context = context
        self._failures = 0
        self._logged = ""

    def failed(self, error: ImageCacheError | None = None) -> float:
        """Count a failure, log the error unless it was logged last, and return the seconds until the next try."""
        if error is not None and self._log is not None and str(error) != self._logged:
            self._logged = str(error)
            hint = {"hint": error.hint} if error.hint else {}
            self._log.warning(self._message, **self._context, reason=error.reason, problem=self._logged, **hint)
        self._failures += 1
        return self._backoff.pause(self._failures)

    def succeeded(self) -> None:
        """Begin anew: with the first pause, and the same problem is logged when it comes back."""
        self._failures, self._logged = 0, ""


class Retryable(Exception):
    """The same call may succeed later. Caught by the package that raises it; never reaches a user.

    Args:
        error: raised instead when there have been enough tries.
        after: seconds that the other side asks to wait.
    """

    def __init__(self, error: ImageCacheError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


@dataclass(slots=True)
class Attempts:
    """The tries of one thing that gives up after ``limit`` failures without progress."""

    limit: int
    backoff: Backoff
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    longest_asked: float = math.inf
    """Seconds; when the other side asks for more than that, there is no other try."""
    failures: int = 0

    def progress(self) -> None:
        """Count failures anew."""
        self.failures = 0

    async def wait(self, again: Retryable) -> None:
        """Sleep before the next try. Raises the error after the last one, chained to its cause."""
        self.failures += 1
        pause = self.backoff.pause(self.failures) if again.after is None else again.after
        if self.failures >= self.limit or pause > self.longest_asked:
            raise again.error from again.__cause__
        await self.sleep(pause)

    async def run(self, operation: Callable[[], Awaitable[_T]]) -> _T:
        """The operation's result; it is called again while it raises Retryable."""
        while True:
            try:
                return await operation()
            except Retryable as again:
                await self.wait(again)
