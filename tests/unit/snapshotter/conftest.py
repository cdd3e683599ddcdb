"""A node in memory for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.snapshotter import SnapshotterRig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SnapshotterRig]:
    node = SnapshotterRig(tmp_path / "root")
    yield node
    node.snapshotter.close()
