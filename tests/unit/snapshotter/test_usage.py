"""Disk usage: what counts, what does not, and when it stops counting."""

from __future__ import annotations

import os
from pathlib import Path

from imagecache.snapshotter.usage import Meter, measure
from testkit.clock import FakeClock


class SlowClock(FakeClock):
    """A second passes with every look."""

    def monotonic(self) -> float:
        self.advance(1)
        return super().monotonic()


def test_every_inode_counts_once_and_links_are_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "dir").mkdir(parents=True)
    (root / "file").write_bytes(b"x" * 10_000)
    os.link(root / "file", root / "dir" / "hard")
    (tmp_path / "outside").write_bytes(b"x" * 100_000)
    (root / "link").symlink_to("../outside")
    measured = measure(root, FakeClock(), budget=1)

    assert measured.complete
    assert measured.usage.inodes == 4
    assert 10_000 <= measured.usage.size < 100_000


def test_what_is_not_there_takes_nothing(tmp_path: Path) -> None:
    assert measure(tmp_path / "gone", FakeClock(), budget=1).usage.inodes == 0


def test_it_stops_when_the_time_is_over(tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / str(number)).touch()
    measured = measure(tmp_path, SlowClock(), budget=0.5)

    assert not measured.complete
    assert measured.usage.inodes < 600


def test_a_short_measurement_does_not_replace_a_larger_one(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "large").write_bytes(b"x" * 1_000_000)
    clock = SlowClock()
    meter = Meter(clock, age=0, budget=0.5)
    before = meter.measure(root)
    (root / "large").unlink()
    for number in range(600):
        (root / str(number)).touch()

    assert before.complete
    assert meter.measure(root) == before
    meter.forget(root)
    assert not meter.measure(root).complete
