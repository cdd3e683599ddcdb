"""Memory that is shared with a worker: what either side can do to it."""

from __future__ import annotations

import mmap
import os

import pytest

from imagecache.fetch.buffers import Slots, UnpackingMemory


def test_what_a_worker_changes_later_is_not_in_the_copy() -> None:
    with UnpackingMemory(mmap.PAGESIZE) as memory:
        worker = mmap.mmap(memory.fd, 0)
        worker[:4] = b"good"
        memory.copy(4)
        worker[:4] = b"evil"

        assert bytes(memory.copied(4)) == b"good"


def test_the_copy_of_a_short_piece() -> None:
    with UnpackingMemory(2 * mmap.PAGESIZE) as memory:
        mmap.mmap(memory.fd, 0)[:] = b"x" * (2 * mmap.PAGESIZE)
        memory.copy(mmap.PAGESIZE + 1)

        assert bytes(memory.copied(mmap.PAGESIZE + 1)) == b"x" * (mmap.PAGESIZE + 1)


@pytest.mark.parametrize("size", [0, 2 * mmap.PAGESIZE])
def test_a_worker_cannot_take_the_memory_away(size: int) -> None:
    slots = Slots(1, mmap.PAGESIZE)
    with UnpackingMemory(mmap.PAGESIZE) as memory:
        for fd in (slots.fd, memory.fd):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
    slots.close()


def test_a_worker_cannot_write_to_what_arrives() -> None:
    slots = Slots(1, mmap.PAGESIZE)

    with pytest.raises(PermissionError):
        mmap.mmap(slots.fd, 0)
    with pytest.raises(PermissionError):
        os.pwrite(slots.fd, b"x", 0)
    slots.close()
