"""Who may read a served store: the agents' ServiceAccounts, by token.

Every endpoint but the probes needs an allowed agent, so layers of private images are readable by nobody else in the
cluster. Answers of the reviewer are kept for a bounded time (a token may be revoked) and a bounded number of tokens, by
their SHA-256 only; many requests with one new token make one review. It must not log or raise a token.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from imagecache.clock import Clock

_SCHEME = "bearer "


class TokenReviewer(Protocol):
    """Who a bearer token stands for: Kubernetes' TokenReview with our own audience."""

    async def review(self, token: str) -> str | None:
        """The username, such as ``system:serviceaccount:imagecache:imagecache-agent``; None for an invalid token.

        Raises an ImageCacheError when the review itself fails. The token must not be in it.
        """


class Refused(Exception):
    """The request ends here: HTTP status 401 or 403, and why. Never leaves this package."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Times in seconds."""

    allowed: frozenset[str]
    """Usernames, such as ``system:serviceaccount:imagecache:imagecache-agent``."""
    keep: float = 60.0
    """How long a valid token stays admitted without another review."""
    keep_invalid: float = 5.0
    """How long an invalid one stays refused without another review."""
    tokens: int = 4096
    """Remembered at most; the ones unused for longest go first."""
    reviews: int = 16
    """At the same time, so that a flood of bad tokens does not become one of the API server."""


@dataclass(frozen=True, slots=True)
class _Known:
    username: str | None
    until: float


class Gate:
    def __init__(self, reviewer: TokenReviewer, clock: Clock, settings: GateSettings) -> None:
        self._reviewer = reviewer
        self._clock = clock
        self._settings = settings
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[str | None]] = {}
        self._slots = asyncio.Semaphore(settings.reviews)

    async def admit(self, authorization: str) -> str:
        """The username behind an Authorization field. Raises Refused, and what the reviewer raises."""
        token = authorization[len(_SCHEME) :].strip() if authorization[: len(_SCHEME)].lower() == _SCHEME else ""
        if not token:
            raise Refused(401, "Unauthenticated", "a bearer token is needed")
        username = await self._username(token)
        if username is None:
            raise Refused(401, "Unauthenticated", "the token is not valid, or not for this audience")
        if username not in self._settings.allowed:
            raise Refused(403, "AccessDenied", f"{username} is not an agent of this cluster's image caches")
        return username

    async def _username(self, token: str) -> str | None:
        key = hashlib.sha256(token.encode()).digest()
        known = self._known.get(key)
        if known is not None and self._clock.monotonic() < known.until:
            self._known.move_to_end(key)
            return known.username
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._review(token))
            asking.add_done_callback(lambda task: self._answered(key, task))
        return await asyncio.shield(asking)

    async def _review(self, token: str) -> str | None:
        async with self._slots:
            return await self._reviewer.review(token)

    def _answered(self, key: bytes, task: asyncio.Task[str | None]) -> None:
        self._asking.pop(key, None)
        if task.cancelled() or task.exception() is not None:
            return  # nobody could say: the next request asks again
        username = task.result()
        seconds = self._settings.keep_invalid if username is None else self._settings.keep
        self._known[key] = _Known(username, self._clock.monotonic() + seconds)
        self._known.move_to_end(key)
        while len(self._known) > self._settings.tokens:
            self._known.popitem(last=False)
