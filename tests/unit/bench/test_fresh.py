"""When a turn may begin, and what becomes of those before it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.fresh import Roots, wait_after


@pytest.mark.parametrize(("ago", "least", "most"), [(0, 360, 370), (300, 65, 75), (10_000, 65, 65)])
def test_a_run_that_follows_another_one_waits_longer(ago: float, least: float, most: float) -> None:
    assert least <= wait_after(time.time() - ago) <= most


def test_what_is_spent_gives_its_bytes_back_and_no_inode_is_freed(tmp_path: Path) -> None:
    roots = Roots(tmp_path)
    first = roots.fresh("a")
    (first / "d").mkdir(parents=True)
    (first / "d" / "large").write_bytes(b"1" * (1 << 20))
    (first / "small").write_text("a block all the same")
    (first / "link").symlink_to("/etc/passwd")
    (tmp_path / "blob").write_bytes(b"1" * (1 << 20))
    (first / "same").hardlink_to(tmp_path / "blob")
    inodes = {path: path.lstat().st_ino for path in first.rglob("*")}

    roots.spend(first)

    assert {path: path.lstat().st_ino for path in first.rglob("*")} == inodes
    assert (first / "d" / "large").stat().st_size == (first / "small").stat().st_size == 0
    assert (tmp_path / "blob").stat().st_size == 1 << 20, "another name of it is not ours to empty"
    assert roots.fresh("b") != first
