"""Who may read a served store: the agents' ServiceAccounts, by token.

Every endpoint but the probes needs an allowed agent, so nobody else in the cluster can read layers of private images.
A reviewer's answers are kept for a bounded time (a token may be revoked) and for a bounded number of tokens, by their
SHA-256 only; many requests with one new token make one review. It must not log or raise a token.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Protocol

from imagecache.clock import Clock
from imagecache.errors import KubernetesUnavailable, StoreBusy

_SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sends a request."""

    username: str
    """Such as ``system:serviceaccount:imagecache:imagecache-agent``."""
    node: str = ""
    """The Node that its token is bound to; empty where the API server does not say."""


class TokenReviewer(Protocol):
    """Who a bearer token stands for: Kubernetes' TokenReview with our own audience."""

    async def review(self, token: str) -> Caller | None:
        """None for an invalid token.

        Raises an ImageCacheError when the review itself fails. The token must not be in it.
        """


class Refused(Exception):
    """The request ends with HTTP status 401 or 403. Never leaves this package."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class AuthenticatorSettings:
    """Times in seconds."""

    allowed: frozenset[str]
    """Usernames, such as ``system:serviceaccount:imagecache:imagecache-agent``."""
    keep: float = 60.0
    """How long a valid token stays accepted without another review."""
    keep_invalid: float = 5.0
    """How long an invalid token stays refused without another review."""
    tokens: int = 4096
    """Most tokens remembered; the least recently used one is forgotten first."""
    reviews: int = 16
    """Most reviews at a time, so that a flood of bad tokens does not become a flood at the API server."""


@dataclass(frozen=True, slots=True)
class _Reviewed:
    caller: Caller | None
    until: float


class Authenticator:
    """Lives in one event loop, the reviewer's."""

    def __init__(self, reviewer: TokenReviewer, clock: Clock, settings: AuthenticatorSettings) -> None:
        self._reviewer = reviewer
        self._clock = clock
        self._settings = settings
        self._reviewed: OrderedDict[bytes, _Reviewed] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[Caller | None]] = {}
        self._slots = asyncio.Semaphore(settings.reviews)

    async def authenticate(self, authorization: str) -> Caller:
        """Who is behind an Authorization field. Raises Refused, and what the reviewer raises."""
        token = authorization[len(_SCHEME) :].strip() if authorization[: len(_SCHEME)].lower() == _SCHEME else ""
        if not token:
            raise Refused(401, "Unauthenticated", "a bearer token is needed")
        caller = await self._caller(token)
        if caller is None:
            raise Refused(401, "Unauthenticated", "the token is not valid, or not for this audience")
        if caller.username not in self._settings.allowed:
            raise Refused(403, "AccessDenied", f"{caller.username} is not an agent of this cluster's image caches")
        return caller

    async def _caller(self, token: str) -> Caller | None:
        key = hashlib.sha256(token.encode()).digest()
        reviewed = self._reviewed.get(key)
        if reviewed is not None and self._clock.monotonic() < reviewed.until:
            self._reviewed.move_to_end(key)
            return reviewed.caller
        review = self._running.get(key)
        if review is None:
            review = self._running[key] = asyncio.create_task(self._review(token))
            review.add_done_callback(lambda task: self._remember(key, task))
        return await asyncio.shield(review)  # several requests may wait for it: one that is cancelled must not end it

    async def _review(self, token: str) -> Caller | None:
        async with self._slots:
            return await self._reviewer.review(token)

    def _remember(self, key: bytes, task: asyncio.Task[Caller | None]) -> None:
        self._running.pop(key, None)
        if task.cancelled() or task.exception() is not None:
            return  # no answer is not a refusal: the next request starts another review
        caller = task.result()
        seconds = self._settings.keep_invalid if caller is None else self._settings.keep
        self._reviewed[key] = _Reviewed(caller, self._clock.monotonic() + seconds)
        self._reviewed.move_to_end(key)
        while len(self._reviewed) > self._settings.tokens:
            self._reviewed.popitem(last=False)


class ThreadedAuthenticator:
    """An ``Authenticator`` called from threads, while its event loop runs. Thread-safe."""

    def __init__(self, authenticator: Authenticator, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        """``timeout``: seconds for one call."""
        self._authenticator = authenticator
        self._loop = loop
        self._timeout = timeout
        self._pending: set[Future[Caller]] = set()
        self._closed = False
        self._lock = threading.Lock()

    def authenticate(self, authorization: str) -> Caller:
        """Who is behind an Authorization field. Blocks.

        Raises Refused, StoreBusy, KubernetesUnavailable, and what the reviewer raises.
        """
        with self._lock:
            if self._closed:
                raise StoreBusy("the server is stopping")
            answer = asyncio.run_coroutine_threadsafe(self._authenticator.authenticate(authorization), self._loop)
            self._pending.add(answer)
        try:
            return answer.result(self._timeout)
        except TimeoutError:
            raise KubernetesUnavailable(f"token review timed out after {self._timeout:g} s") from None
        except CancelledError:
            raise StoreBusy("the server is stopping") from None
        finally:
            answer.cancel()
            with self._lock:
                self._pending.discard(answer)

    def close(self) -> None:
        """Threads that wait for an answer get StoreBusy."""
        with self._lock:
            self._closed = True
            pending = list(self._pending)
        for answer in pending:
            answer.cancel()
