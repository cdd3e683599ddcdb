"""Writing past the page cache, and the memory that it is done from."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import random
from pathlib import Path

import pytest

from imagecache.fetch.buffers import SlotPool, Slots
from imagecache.fetch.direct_io import DirectWriter

_SIZE = 64 << 10
_DATA = random.Random(7).randbytes(3 * _SIZE + 5000)


def cached(path: Path) -> int:
    """Bytes of the file in the page cache, in whole pages (mincore(2); reading would bring more)."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as memory:
        pages = (ctypes.c_ubyte * (-(-len(memory) // mmap.PAGESIZE)))()
        start = ctypes.c_char.from_buffer(memory)
        failed = ctypes.CDLL(None).mincore(ctypes.byref(start), ctypes.c_size_t(len(memory)), pages)
        del start
    assert failed == 0
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch()
    return path


def write(path: Path, sizes: list[int], end: int, *, shift: int = 0) -> None:
    """``_DATA`` in pieces, each from page aligned memory, or ``shift`` bytes behind that."""
    fd = os.open(path, os.O_RDWR)
    memory = memoryview(mmap.mmap(-1, max(sizes) + mmap.PAGESIZE))
    try:
        with DirectWriter(path, fd, end) as writer:
            offset = 0
            for size in sizes:
                piece = memory[shift : shift + size]
                piece[:] = _DATA[offset : offset + size]
                writer.write(offset, piece)
                offset += size
    finally:
        os.close(fd)


def test_what_containers_do_not_read_soon_stays_out_of_the_page_cache(file: Path) -> None:
    write(file, [_SIZE, _SIZE, _SIZE, 5000], end=2 * _SIZE + 8192 + 100)

    assert cached(file) == _SIZE - 8192 + 8192  # 5000 bytes are two pages
    assert file.read_bytes() == _DATA


@pytest.mark.parametrize("sizes", [[1, _SIZE, 4095, _SIZE, 5], [4096, 4097, _SIZE], [3 * _SIZE + 5000]])
@pytest.mark.parametrize("end", [0, 4097, 10**9])
def test_any_pieces_make_the_same_file(file: Path, sizes: list[int], end: int) -> None:
    write(file, sizes, end)

    assert file.read_bytes() == _DATA[: sum(sizes)]


def test_memory_that_the_disk_does_not_take_is_written_as_usual(file: Path) -> None:
    write(file, [_SIZE, _SIZE], end=10**9, shift=1)

    assert file.read_bytes() == _DATA[: 2 * _SIZE]


def test_a_worker_can_read_the_memory_and_nothing_else() -> None:
    slots = Slots(2, 4096)
    slots.piece(3, 5)[:] = b"third"

    with mmap.mmap(slots.fd, 0, prot=mmap.PROT_READ) as theirs:
        assert theirs[slots.offset(3) :][:5] == b"third"
    with pytest.raises(PermissionError):
        mmap.mmap(slots.fd, 0)
    with pytest.raises(PermissionError):
        os.pwrite(slots.fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(slots.fd, 0)
    assert fcntl.fcntl(slots.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    slots.close()


def test_closed_memory_lasts_as_long_as_a_view_of_it() -> None:
    slots = Slots(1, 4096)
    piece = slots.piece(0, 4096)

    slots.close()

    piece[:] = bytes(4096)


def test_memory_is_reused_while_another_has_some() -> None:
    pool = SlotPool(1, 4096)
    with pool.borrow():
        with pool.borrow() as first:
            pass
        with pool.borrow() as second:
            assert second is first

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first.fd)  # the last one frees it


def test_memory_that_a_cancelled_request_may_write_to_is_not_reused() -> None:
    pool = SlotPool(1, 4096)
    with pool.borrow():
        with pool.borrow() as first:
            first.abandoned = True
        with pool.borrow() as second:
            assert second is not first
