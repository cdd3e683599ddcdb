"""Which layers are inflated on several cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imagecache.builder.inflate_threads import LEAST_SIZE, MEMORY, cores, has_memory, threads_for
from imagecache.limits import GIB, MIB


@pytest.mark.parametrize(
    ("size", "left", "of", "threads"),
    [
        (3 * GIB, 3 * GIB, 16, 8),  # one large layer: the tar's hash is slower than eight cores
        (3 * GIB, 3 * GIB, 8, 7),
        (3 * GIB, 3 * GIB, 4, 3),
        (3 * GIB, 3 * GIB, 3, 0),
        (3 * GIB, 3 * GIB, 2, 0),  # never slower with two
        (GIB, 16 * GIB, 16, 0),  # sixteen of one size
        (7 * GIB, 10 * GIB, 16, 8),  # one that has most of the bytes
        (GIB, 10 * GIB, 16, 0),  # and the others beside it
        (LEAST_SIZE - 1, LEAST_SIZE - 1, 16, 0),
        (LEAST_SIZE, 0, 16, 8),  # converted before, and again because its bytes were wrong
    ],
)
def test_a_layer_has_its_share_of_the_cores(size: int, left: int, of: int, threads: int) -> None:
    assert threads_for(size, left, of) == threads


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_a_quota_counts(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    write(tmp_path, files)

    assert cores(tmp_path) == (expected or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("files", "enough"),
    [
        ({}, True),
        ({"memory.max": "max\n"}, True),
        ({"memory.max": f"{2 * MEMORY}\n"}, True),
        ({"memory.max": f"{2 * MEMORY - MIB}\n"}, False),
        ({"memory/memory.limit_in_bytes": f"{2 * GIB}\n"}, False),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, True),
    ],
)
def test_a_bound_on_memory_counts(tmp_path: Path, files: dict[str, str], enough: bool) -> None:
    write(tmp_path, files)

    assert has_memory(tmp_path) is enough


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
