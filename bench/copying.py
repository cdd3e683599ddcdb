"""What this machine can do at all: copy bytes that are in memory to a file, hash them once, make the file durable.

The least that a node must do with a layer image that comes to it. Threads, since reading, writing and hashing all leave
Python's lock alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imagecache.builder.writeback import WriteBehind

_PIECE = 1 << 20
_SETTLE = 4.0
"""Seconds before the first run. Hypervisors take freed memory back after some, and new memory costs more than the hash:
what comes to a node comes to new memory, and so must this. For the same reason no run frees what it has written."""


def best_rate(files: Sequence[Path], directory: Path, copies: int) -> float:
    """MB/s of ``copies`` copies of all files: the best of one worker, two, ... one for each processor."""
    processors = len(os.sched_getaffinity(0))
    time.sleep(_SETTLE)
    try:
        return max(_rate(files, directory / f"{workers}", copies, workers) for workers in range(1, processors + 1))
    finally:
        shutil.rmtree(directory)


def _rate(files: Sequence[Path], directory: Path, copies: int, workers: int) -> float:
    """Every worker has an equal share of the bytes of each copy, in a file of its own."""
    directory.mkdir(parents=True)
    spans = [span for copy in range(copies) for span in _spans(files, directory, copy, workers)]
    size = sum(end - start for _, _, start, end in spans)
    with ThreadPoolExecutor(workers) as threads:
        begin = time.perf_counter()
        list(threads.map(lambda span: _copy(*span), spans))
        return size / 1e6 / (time.perf_counter() - begin)


def _spans(files: Sequence[Path], directory: Path, copy: int, workers: int) -> list[tuple[Path, Path, int, int]]:
    """Source, target, first byte and the one after the last."""
    spans = []
    for number, file in enumerate(files):
        size = file.stat().st_size
        edges = [size * worker // workers for worker in range(workers + 1)]
        for worker in range(workers):
            target = directory / f"{copy}-{number}-{worker}"
            spans.append((file, target, edges[worker], edges[worker + 1]))
    return spans


def _copy(source: Path, target: Path, start: int, end: int) -> str:
    digest = hashlib.sha256()
    with source.open("rb", buffering=0) as reading, target.open("wb", buffering=0) as writing:
        behind = WriteBehind(writing.fileno())
        for at in range(start, end, _PIECE):
            data = os.pread(reading.fileno(), min(_PIECE, end - at), at)
            digest.update(data)
            behind.write(at - start, data)
        os.fdatasync(writing.fileno())
    return digest.hexdigest()
