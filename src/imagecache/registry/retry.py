"""Trying again: how often, how long to wait, and what the registry itself asks for.

Exponential back-off with jitter; ``Retry-After`` (RFC 9110 §10.2.3, seconds or a date) has precedence. It must not
decide what may be tried again: that is said by raising ``Retryable``.
"""

from __future__ import annotations

import datetime as dt
import email.utils
from collections.abc import Awaitable, Callable
from typing import TypeVar

from imagecache.errors import ImageCacheError
from imagecache.registry.config import RegistryConfig

_T = TypeVar("_T")
_DIGITS = 9


class Retryable(Exception):
    """Time may heal this: the error to raise when it does not, and the seconds that the registry asks to wait.

    Never leaves this package.
    """

    def __init__(self, error: ImageCacheError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


class Patience:
    """The waits between the tries of one thing."""

    def __init__(self, config: RegistryConfig, attempts: int | None = None) -> None:
        self._config = config
        self._attempts = config.attempts if attempts is None else attempts
        self._failures = 0

    def progress(self) -> None:
        """Something worked: count failures anew."""
        self._failures = 0

    async def wait(self, again: Retryable) -> None:
        """Sleep before the next try. Raises the error when there have been enough, chained to its cause."""
        self._failures += 1
        delay = self._backoff() if again.after is None else again.after
        if self._failures >= self._attempts or delay > self._config.retry_after_limit:
            raise again.error from again.__cause__
        await self._config.sleep(delay)

    def _backoff(self) -> float:
        whole = min(self._config.backoff_limit, self._config.backoff * 2.0 ** (self._failures - 1))
        return whole * (0.5 + self._config.chance())


async def patiently(config: RegistryConfig, operation: Callable[[], Awaitable[_T]], attempts: int | None = None) -> _T:
    """The operation's result, tried again while it raises Retryable."""
    patience = Patience(config, attempts)
    while True:
        try:
            return await operation()
        except Retryable as again:
            await patience.wait(again)


def retry_after(field: str | None, now: dt.datetime) -> float | None:
    """Seconds that a Retry-After field asks for; None when there is none that can be read."""
    text = (field or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:_DIGITS])
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=dt.UTC)
    return max(0.0, (date - now).total_seconds())
