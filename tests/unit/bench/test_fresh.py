"""When a turn may begin, and what becomes of those before it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bench.fresh import Roots, wait_after


@pytest.mark.parametrize(("ago", "least", "most"), [(0, 360, 370), (300, 65, 75), (10_000, 65, 65)])
def test_a_run_that_follows_another_one_waits_longer(ago: float, least: float, most: float) -> None:
    assert least <= wait_after(time.time() - ago) <= most


def test_a_full_disk_gets_its_bytes_back_and_no_inode_is_freed(tmp_path: Path) -> None:
    roots = Roots(tmp_path, reserve=0)
    first = roots.fresh("a")
    (first / "d").mkdir(parents=True)
    (first / "d" / "large").write_bytes(b"1" * (1 << 20))
    (first / "small").write_text("a block all the same")
    (first / "link").symlink_to("/etc/passwd")
    (tmp_path / "blob").write_bytes(bytes(1 << 20))
    (first / "same").hardlink_to(tmp_path / "blob")
    kept = roots.fresh("b")
    kept.mkdir()
    (kept / "large").write_bytes(bytes(1 << 20))

    os.sync()  # blocks are counted once they are on the disk
    roots.spend(first)
    roots.empty_spent(1 << 60)

    assert (first / "d" / "large").stat().st_size == 0
    assert (first / "small").stat().st_size == 0
    assert (tmp_path / "blob").stat().st_size == 1 << 20, "another name of it is not ours to empty"
    assert (kept / "large").stat().st_size == 1 << 20
    assert len(roots.emptied) == 1


def test_no_more_is_emptied_than_is_wanted(tmp_path: Path) -> None:
    roots = Roots(tmp_path, reserve=0)
    left = roots.fresh("a")
    left.mkdir()
    (left / "file").write_bytes(b"1" * 4096)
    os.sync()
    roots.spend(left)

    roots.empty_spent(1)

    assert (left / "file").stat().st_size == 4096
