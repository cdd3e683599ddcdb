"""The gate, asked from threads.

It lives in the event loop that the server was started in, since who reviews tokens does. It must not decide who may
come in.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, Future

from imagecache.errors import KubernetesUnavailable, StoreBusy
from imagecache.served.auth import Gate


class Admission:
    """Thread-safe. ``seconds``: for one answer of the gate."""

    def __init__(self, gate: Gate, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._gate = gate
        self._loop = loop
        self._seconds = seconds
        self._asking: set[Future[str]] = set()
        self._closed = False
        self._lock = threading.Lock()

    def admit(self, authorization: str) -> None:
        """Blocks. Raises Refused, StoreBusy, KubernetesUnavailable, and what the reviewer raises."""
        with self._lock:
            if self._closed:
                raise StoreBusy("the server stops")
            asking = asyncio.run_coroutine_threadsafe(self._gate.admit(authorization), self._loop)
            self._asking.add(asking)
        try:
            asking.result(self._seconds)
        except TimeoutError:
            raise KubernetesUnavailable(f"nobody says within {self._seconds:g} s whose token that is") from None
        except CancelledError:
            raise StoreBusy("the server stops") from None
        finally:
            asking.cancel()
            with self._lock:
                self._asking.discard(asking)

    def close(self) -> None:
        """Who waits for an answer gets none."""
        with self._lock:
            self._closed = True
            asking = list(self._asking)
        for each in asking:
            each.cancel()
