"""Who may send a layer, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from imagecache.errors import StoreBusy
from imagecache.served.bounded_queue import BoundedQueue


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def line_up(queue: BoundedQueue, count: int, work: Callable[[int], None]) -> list[threading.Thread]:
    """Threads that wait for their turn, in this order."""
    threads = []
    for number in range(count):
        threads.append(in_thread(lambda number=number: work(number)))  # type: ignore[misc]
        while len(queue._waiters) <= number:
            threads[-1].join(0.001)
    return threads


def test_memory_is_used_again() -> None:
    queue = BoundedQueue(2, capacity=0, timeout=1, buffer_size=100)

    with queue.slot() as first:
        pass
    with queue.slot() as second, queue.slot() as third:
        assert second is first
        assert third is not first
        assert len(third) == 100


def test_those_who_wait_are_served_in_order() -> None:
    queue, order = BoundedQueue(1, capacity=3, timeout=60, buffer_size=1), list[int]()

    def take(number: int) -> None:
        with queue.slot():
            order.append(number)

    with queue.slot():
        threads = line_up(queue, 3, take)
        with pytest.raises(StoreBusy, match="too many"), queue.slot():
            pass
    for thread in threads:
        thread.join()

    assert order == [0, 1, 2]


def test_a_wait_ends_with_the_timeout() -> None:
    queue = BoundedQueue(1, capacity=3, timeout=0.01, buffer_size=1)

    with queue.slot(), pytest.raises(StoreBusy, match="too many"), queue.slot():
        pass

    with queue.slot():
        assert not queue._waiters


def test_closing_tells_who_waits() -> None:
    queue, raised = BoundedQueue(1, capacity=3, timeout=60, buffer_size=1), list[str]()

    def take(_number: int) -> None:
        try:
            with queue.slot():
                pass
        except StoreBusy as error:
            raised.append(str(error))

    with queue.slot():
        threads = line_up(queue, 2, take)
        queue.close()
        for thread in threads:
            thread.join()

    assert raised == ["the server is stopping"] * 2
    with pytest.raises(StoreBusy), queue.slot():
        pass
