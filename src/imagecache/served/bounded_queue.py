"""BoundedQueue at sending layers: so many at once, so many in a queue, in the order in which they came.

With its turn a thread gets the memory that it sends from, so that memory is bounded by the turns and used again. It
must not know what is sent.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from imagecache.errors import StoreBusy


class BoundedQueue:
    """Thread-safe. ``patience``: seconds that one may wait; ``piece``: bytes of memory of each turn."""

    def __init__(self, turns: int, *, waiting: int, patience: float, piece: int) -> None:
        self._left = turns
        self._most_waiting = waiting
        self._patience = patience
        self._piece = piece
        self._free: list[memoryview] = []
        self._waiting: deque[queue.SimpleQueue[memoryview | None]] = deque()
        self._closed = False
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[memoryview]:
        """Memory to send from. Raises StoreBusy."""
        memory = self._take()
        try:
            yield memory
        finally:
            self._give(memory)

    def close(self) -> None:
        """Nobody gets a turn any more; who waits is told at once."""
        with self._lock:
            self._closed = True
            while self._waiting:
                self._waiting.popleft().put(None)

    def _take(self) -> memoryview:
        with self._lock:
            if self._closed:
                raise StoreBusy("the server stops")
            if self._free:
                return self._free.pop()  # the one used last: it may still be in a cache of the processor
            if self._left:
                self._left -= 1
                return memoryview(bytearray(self._piece))
            if len(self._waiting) >= self._most_waiting:
                raise StoreBusy("too many layers are being sent")
            place: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
            self._waiting.append(place)
        return self._wait(place)

    def _wait(self, place: queue.SimpleQueue[memoryview | None]) -> memoryview:
        try:
            memory = place.get(timeout=self._patience)
        except queue.Empty:
            with self._lock:
                if place in self._waiting:
                    self._waiting.remove(place)
                    raise StoreBusy("too many layers are being sent") from None
            memory = place.get()  # it came just now
        if memory is None:
            raise StoreBusy("the server stops")
        return memory

    def _give(self, memory: memoryview) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().put(memory)
            else:
                self._free.append(memory)
