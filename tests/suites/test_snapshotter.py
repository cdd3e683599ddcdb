"""The snapshotter suite over ours with copied mounts, and the mounter suite over the fake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.mounts import CopiedOverlay, FakeMounter
from testkit.snapshotter import SnapshotterRig
from testkit.suites.mounter import Bench, MounterSuite
from testkit.suites.snapshotter import SnapshotterSuite, Stage


class TestSnapshotter(SnapshotterSuite):
    @pytest.fixture
    def stage(self, tmp_path: Path) -> Iterator[Stage]:
        rig = SnapshotterRig(tmp_path / "root")
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        yield Stage(rig.snapshotter, CopiedOverlay(scratch), scratch, rig.clock.advance)
        rig.snapshotter.close()


class TestFakeMounter(MounterSuite):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Bench:
        images = tmp_path / "one.erofs", tmp_path / "two.erofs"
        for image in images:
            image.touch()
        return Bench(FakeMounter(exists=Path.exists), *images, tmp_path / "mounts")
