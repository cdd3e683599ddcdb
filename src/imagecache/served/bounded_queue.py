"""A bounded number of slots to send layers from, and a bounded first-in-first-out queue of threads that wait for one.

A slot comes with the memory that its thread sends from, so the slots bound the memory, and it is reused. It must not
know what is sent.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from imagecache.errors import StoreBusy

_Waiter = queue.SimpleQueue[memoryview | None]


class BoundedQueue:
    """Thread-safe."""

    def __init__(self, slots: int, *, capacity: int, timeout: float, buffer_size: int) -> None:
        """Make the queue.

        Args:
            slots: used at a time.
            capacity: threads that may wait for a slot; one more gets StoreBusy at once.
            timeout: seconds that a thread waits for a slot.
            buffer_size: bytes of memory of each slot.
        """
        self._unused = slots
        """Slots whose memory was never allocated: a server with few readers allocates little."""
        self._capacity = capacity
        self._timeout = timeout
        self._buffer_size = buffer_size
        self._free: list[memoryview] = []
        self._waiters: deque[_Waiter] = deque()
        self._closed = False
        self._lock = threading.Lock()

    @contextmanager
    def slot(self) -> Iterator[memoryview]:
        """The memory of a slot. Raises StoreBusy."""
        buffer = self._acquire()
        try:
            yield buffer
        finally:
            with self._lock:
                if self._waiters:
                    # Handed over while the lock is held: a thread that comes now must not overtake those that wait.
                    self._waiters.popleft().put(buffer)
                else:
                    self._free.append(buffer)

    def close(self) -> None:
        """From now on ``slot`` raises StoreBusy, in threads that wait too."""
        with self._lock:
            self._closed = True
            while self._waiters:
                self._waiters.popleft().put(None)

    def _acquire(self) -> memoryview:
        with self._lock:
            if self._closed:
                raise StoreBusy("the server is stopping")
            if self._free:
                return self._free.pop()  # the one used last: it may still be in a cache of the processor
            if self._unused:
                self._unused -= 1
                return memoryview(bytearray(self._buffer_size))
            if len(self._waiters) >= self._capacity:
                raise StoreBusy("too many layers are being sent")
            waiter: _Waiter = queue.SimpleQueue()
            self._waiters.append(waiter)
        try:
            buffer = waiter.get(timeout=self._timeout)
        except queue.Empty:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                    raise StoreBusy("too many layers are being sent") from None
            # It left the queue between the timeout and the lock, so its slot is here: not to take it would lose it.
            buffer = waiter.get()
        if buffer is None:
            raise StoreBusy("the server is stopping")
        return buffer
