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


def line_up(turns: BoundedQueue, count: int, work: Callable[[int], None]) -> list[threading.Thread]:
    """Threads that wait for their turn, in this order."""
    threads = []
    for number in range(count):
        threads.append(in_thread(lambda number=number: work(number)))  # type: ignore[misc]
        while len(turns._waiting) <= number:
            threads[-1].join(0.001)
    return threads


def test_memory_is_used_again() -> None:
    turns = BoundedQueue(2, waiting=0, patience=1, piece=100)

    with turns.turn() as first:
        pass
    with turns.turn() as second, turns.turn() as third:
        assert second is first
        assert third is not first
        assert len(third) == 100


def test_those_who_wait_are_served_in_order() -> None:
    turns, order = BoundedQueue(1, waiting=3, patience=60, piece=1), list[int]()

    def take(number: int) -> None:
        with turns.turn():
            order.append(number)

    with turns.turn():
        threads = line_up(turns, 3, take)
        with pytest.raises(StoreBusy, match="too many"), turns.turn():
            pass
    for thread in threads:
        thread.join()

    assert order == [0, 1, 2]


def test_patience_ends() -> None:
    turns = BoundedQueue(1, waiting=3, patience=0.01, piece=1)

    with turns.turn(), pytest.raises(StoreBusy, match="too many"), turns.turn():
        pass

    with turns.turn():
        assert not turns._waiting


def test_closing_tells_who_waits() -> None:
    turns, told = BoundedQueue(1, waiting=3, patience=60, piece=1), list[str]()

    def take(_number: int) -> None:
        try:
            with turns.turn():
                pass
        except StoreBusy as error:
            told.append(str(error))

    with turns.turn():
        threads = line_up(turns, 2, take)
        turns.close()
        for thread in threads:
            thread.join()

    assert told == ["the server stops"] * 2
    with pytest.raises(StoreBusy), turns.turn():
        pass
